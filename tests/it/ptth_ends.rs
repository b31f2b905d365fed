//! PTTH over HTTP: the calls of a tunnel in every order, and whichever of them goes at whichever
//! step.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::patience::until;
use super::peers::resets::reset;
use super::ptth_http::{ALICE, HOME, call, is_cut, next_call, read_head, relay, status};
use super::rest::read_response;

/// Ends a connection in one of two ways.
fn end(stream: TcpStream, by_reset: bool) {
    match by_reset {
        true => reset(stream),
        false => drop(stream),
    }
}

/// What of a tunnel is there when one of it goes: the calls behind `connect`, in the order in
/// which they come.
const STEPS: [&[&str]; 8] = [
    &["accept"],
    &["downstream"],
    &["downstream", "accept"],
    &["accept", "upstream"],
    &["accept", "downstream"],
    &["downstream", "accept", "upstream"],
    &["accept", "downstream", "upstream"],
    &["accept", "upstream", "downstream"],
];

#[test]
fn the_calls_of_a_tunnel_may_come_in_any_order() {
    let (_folder, relay) = relay();
    // A client has the id once a server has accepted.
    for order in [
        ["accept", "upstream", "downstream"],
        ["accept", "downstream", "upstream"],
        ["downstream", "accept", "upstream"],
    ] {
        let mut listen = call(relay.address, HOME, "listen/22", "");
        let mut connect = call(relay.address, ALICE, "connect/home/22", "");
        let id = read_response(&mut listen).body;
        let mut calls = order.map(|what| {
            let mut stream = next_call(relay.address, what, &id);
            if what == "accept" {
                read_head(&mut connect);
                read_head(&mut stream);
            }
            Some(stream)
        });
        let mut taken = |what| {
            let at = order
                .iter()
                .position(|call| *call == what)
                .expect("it is one");
            calls[at].take().expect("once")
        };
        let mut accept = taken("accept");
        let (mut upstream, mut downstream) = (taken("upstream"), taken("downstream"));
        for (request, answer) in [
            (&mut upstream, &mut accept),
            (&mut downstream, &mut connect),
        ] {
            let body = b"2\r\nhi\r\n0\r\n\r\n";
            request.write_all(body).expect("sent");
            let mut got = Vec::new();
            answer.read_to_end(&mut got).expect("a clean end");
            assert_eq!(got, body, "{order:?}");
            answer.shutdown(Shutdown::Both).expect("connected");
            assert_eq!(read_response(request).status, 200, "{order:?}");
        }
    }
    relay.stop().check_clean();
}

#[test]
fn whichever_goes_at_whichever_step_the_others_end() {
    let (_folder, relay) = relay();
    let ways = [true, false];
    for (calls, by_reset) in STEPS
        .into_iter()
        .flat_map(|step| ways.map(|way| (step, way)))
    {
        for gone in 0..=calls.len() {
            let mut listen = call(relay.address, HOME, "listen/22", "");
            let mut all = vec![call(relay.address, ALICE, "connect/home/22", "")];
            let id = read_response(&mut listen).body;
            for what in calls {
                all.push(next_call(relay.address, what, &id));
                if *what == "accept" {
                    read_head(&mut all[0]);
                }
            }
            end(all.remove(gone), by_reset);
            // A body that has ended too soon is seen once it is read.
            for what in ["accept", "upstream", "downstream"] {
                if calls.contains(&what) {
                    continue;
                }
                all.push(next_call(relay.address, what, &id));
                if what == "accept" && gone > 0 && !by_reset {
                    read_head(&mut all[0]);
                }
            }
            for (index, stream) in all.iter_mut().enumerate() {
                assert!(
                    is_cut(stream),
                    "{calls:?} {by_reset}: {gone} went, not {index}"
                );
            }
        }
    }
    assert!(relay.stop().status.success());
}

/// Has a client and a server find each other, whoever went before: a server may be offered a
/// connection that is just about to go.
fn check_meeting(relay: SocketAddr, port: &str) {
    let mut connect = call(relay, ALICE, &format!("connect/home/{port}"), "");
    until("one that is still there", || {
        let mut listen = call(relay, HOME, &format!("listen/{port}"), "");
        let id = read_response(&mut listen).body;
        (status(relay, HOME, &format!("reject/{id}")) == 204).then_some(())
    });
    assert_eq!(read_response(&mut connect).status, 502);
}

#[test]
fn who_goes_before_anybody_came_leaves_no_trace() {
    let (_folder, relay) = relay();
    let address = relay.address;
    for by_reset in [true, false] {
        // A client, and then a server, of whom nobody has heard.
        end(call(address, ALICE, "connect/home/22", ""), by_reset);
        end(call(address, HOME, "listen/23", ""), by_reset);
        check_meeting(address, "22");
        check_meeting(address, "23");
        // One that was offered, and has gone since.
        let mut listen = call(address, HOME, "listen/23", "");
        let connect = call(address, ALICE, "connect/home/23", "");
        let id = read_response(&mut listen).body;
        end(connect, by_reset);
        // Whether that was noticed by then or not.
        let rejected = status(address, HOME, &format!("reject/{id}"));
        assert!(matches!(rejected, 204 | 404), "{rejected}");
        check_meeting(address, "23");
    }
    relay.stop().check_clean();
}
