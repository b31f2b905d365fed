//! Proxies of PTTH over QUIC that do not do their part: clients that never read, servers that
//! do not answer or answer something else. Others of the same server are served all the while.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::thread;

use midspan::protocol::ptth_quic::Role;
use midspan::runtime::clock;
use quinn_proto::StreamId;

use super::admin::status;
use super::agent_process::Program;
use super::agents::{check_echo, echo, service};
use super::patience::until;
use super::peers::quic_peer::{Heard, QuicPeer, open};
use super::ptth_quic::{expose, meeting_with_admin};
use super::ptth_quic_bad_input::{check_serving, expect_count, refused};
use super::ptth_quic_peers::wherever_they_are;
use super::ptth_quic_reload::reload;

/// What a client is told whose server is connected with its target.
pub(super) const GRANTED: [u8; 8] = [20, 10, 0, 4, 20, 12, 0, 0];

/// Streams that nobody reads: more than the window of the server's connection has room for.
const STREAMS: usize = 40;
/// What the relay has for all streams of the two connections: the window of the one with 2 MiB for
/// each of these, and what it keeps of the other until it is acknowledged.
const WINDOWS_BYTES: u64 = (16 + 2 * STREAMS as u64 + 8) << 20;
/// What an allocator keeps for itself, and batches of datagrams that nobody has needed before.
const RESIDENT_SLACK_BYTES: u64 = 16 << 20;

/// What it has at least when all of them are held up: 2 MiB for most of the streams.
const HELD_BYTES_MIN: u64 = (2 * STREAMS as u64 * 3 / 4) << 20;
/// How often in a row it has no more than before when nothing more is to come.
const STILL_LOOKS: usize = 8;

fn resident_bytes(program: &Program) -> u64 {
    let status = fs::read_to_string(program.proc("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number") << 10
}

/// Sends until nobody takes it any more.
fn pour(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.write_all(&[7; 64 << 10])?;
    }
}

#[test]
fn a_client_that_never_reads_holds_up_nobody_else() {
    let (meeting, _) = meeting_with_admin(&["--cores", "1"]);
    let targets = [
        format!("pour={}", service(pour)),
        format!("echo={}", service(echo)),
    ];
    let _expose = expose(&meeting, &targets.each_ref().map(String::as_str));
    let (_forward, local) = meeting.forward("home:echo");
    check_echo(local, 0, 1_000_000);
    let before = resident_bytes(&meeting.relay);

    let (mut idle, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let streams = [(); STREAMS].map(|()| {
        let stream = idle.open_with(&open("home", "pour"));
        assert_eq!(idle.hear(stream, GRANTED.len()), GRANTED);
        stream
    });
    let (mut held, mut looks) = (0, 0);
    idle.until("the relay to hold all that it can", |_| {
        let now = resident_bytes(&meeting.relay).saturating_sub(before);
        looks = if now > held { 0 } else { looks + 1 };
        held = now;
        (held >= HELD_BYTES_MIN && looks >= STILL_LOOKS).then_some(())
    });
    for client in 1..4 {
        check_echo(local, client, 1_000_000);
        let grown = resident_bytes(&meeting.relay).saturating_sub(before);
        assert!(
            grown <= WINDOWS_BYTES + RESIDENT_SLACK_BYTES,
            "{grown} bytes"
        );
    }
    for stream in streams {
        assert_eq!(idle.hear(stream, 10_000), [7; 10_000]);
    }
}

#[test]
fn a_stream_needs_more_memory_than_a_connection() {
    /// The least that may be said of memory.
    const BUDGET_BYTES_MIN: u64 = 16 << 20;
    /// The budget becomes smaller by this, far less than the one needs more than the other.
    const STEP_BYTES: u64 = 32 << 10;
    const STEPS: u64 = 64;
    let (meeting, admin) = meeting_with_admin(&["--cores", "1"]);
    let targets = [
        format!("pour={}", service(pour)),
        format!("echo={}", service(echo)),
    ];
    let _expose = expose(&meeting, &targets.each_ref().map(String::as_str));
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    for _ in 0..STREAMS {
        let stream = client.open_with(&open("home", "pour"));
        assert_eq!(client.hear(stream, GRANTED.len()), GRANTED);
    }
    let (mut held, mut looks) = (0, 0);
    client.until("the relay to hold all that it can", |_| {
        let now = status(admin)["memory_bytes"].as_u64().expect("a number");
        looks = if now > held { 0 } else { looks + 1 };
        held = held.max(now);
        (held >= BUDGET_BYTES_MIN && looks >= STILL_LOOKS).then_some(())
    });
    let path = meeting.folder.path().join("relay.toml");
    let text = fs::read_to_string(&path).expect("text");
    let is_refused = (0..STEPS).any(|step| {
        let budget = held + STEPS / 2 * STEP_BYTES - step * STEP_BYTES;
        let limits = format!("[limits]\nmemory_bytes_max = {budget}\n");
        fs::write(&path, limits + &text).expect("written");
        reload(&meeting.relay);
        let stream = client.open_with(&open("home", "echo"));
        client.finish(stream);
        match client.hear_all(stream).bytes {
            bytes if bytes == GRANTED => false,
            bytes if bytes == [53, 10, 0, 0] => true,
            bytes => panic!("{bytes:?}"),
        }
    });
    assert!(is_refused);
    expect_count(admin, &refused("over_memory"), 1.0);
    assert!(QuicPeer::dial(&meeting).comes_about());
}

/// Waits for an offer, of which the length is read as well.
fn offered(server: &mut QuicPeer) -> StreamId {
    let stream = server.accept();
    let offer = server.hear(stream, 4);
    assert_eq!(offer[..3], [11, 0, 0]);
    server.hear(stream, offer[3].into());
    stream
}

#[test]
fn servers_that_answer_something_else_are_no_servers() {
    let (meeting, admin) = meeting_with_admin(&["--cores", "1"]);
    let (mut server, _) = QuicPeer::join(&meeting, Role::ServerSide, "home");
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let cases: [(&str, &[u8]); 5] = [
        ("to another kind", &[20, 10, 0, 4, 20, 12, 0, 0]),
        ("with another body", &[20, 11, 0, 4, 20, 11, 0, 0]),
        ("with a long body", &[20, 11, 0, 5, 20, 12, 0, 0, 0]),
        ("without the inner one", &[20, 11, 0, 0]),
        ("nothing like it", b"HTTP/1.1 200 OK\r\n\r\n"),
    ];
    for (refusals, (what, answer)) in cases.into_iter().enumerate() {
        println!("{what}");
        let asked = client.open_with(&open("home", "22"));
        let offered = offered(&mut server);
        server.say(offered, answer);
        let bytes = vec![50, 10, 0, 0];
        assert_eq!(client.hear_all(asked), Heard { bytes, reset: None });
        assert_eq!(client.stopped(asked), 50);
        client.finish(asked);
        assert_eq!(server.hear_all(offered).reset, Some(40));
        assert_eq!(server.stopped(offered), 40);
        server.finish(offered);
        expect_count(admin, &refused("rejected_by_server"), refusals as f64 + 1.0);
    }
    // Both connections are as good as before.
    let asked = client.open_with(&open("home", "22"));
    let offered = offered(&mut server);
    server.say(offered, &[20, 11, 0, 4, 20, 12, 0, 0]);
    assert_eq!(client.hear(asked, GRANTED.len()), GRANTED);
    check_serving(&meeting);
}

#[test]
fn what_a_server_refuses_its_client_is_told() {
    wherever_they_are(|meeting, admin, [mut server, mut client]| {
        for (answer, told) in [
            (
                &[20, 11, 0, 4, 52, 12, 0, 0][..],
                &[52, 10, 0, 4, 52, 12, 0, 0][..],
            ),
            (&[52, 11, 0, 0], &[52, 10, 0, 0]),
            (&[43, 11, 0, 4, 43, 12, 0, 0], &[43, 10, 0, 4, 43, 12, 0, 0]),
            (&[53, 11, 0, 0], &[53, 10, 0, 0]),
            // That is for the relay to say.
            (&[41, 11, 0, 0], &[50, 10, 0, 0]),
            (&[44, 11, 0, 0], &[50, 10, 0, 0]),
            (&[99, 11, 0, 0], &[50, 10, 0, 0]),
        ] {
            let asked = client.open_with(&open("home", "22"));
            let offered = offered(&mut server);
            server.say(offered, answer);
            let heard = client.hear_all(asked);
            assert_eq!((&*heard.bytes, heard.reset), (told, None), "{answer:?}");
            assert_eq!(client.stopped(asked), u64::from(told[0]), "{answer:?}");
            client.finish(asked);
            server.finish(offered);
        }
        // Whatever it is told, the server it was.
        expect_count(admin, &refused("rejected_by_server"), 7.0);
        check_serving(meeting);
    });
}

#[test]
fn a_server_that_never_answers_is_not_waited_for_for_ever() {
    let (meeting, admin) = meeting_with_admin(&["--cores", "1"]);
    let (mut server, _) = QuicPeer::join(&meeting, Role::ServerSide, "home");
    let (mut client, _) = QuicPeer::join(&meeting, Role::ClientSide, "alice");
    let asked = client.open_with(&open("home", "22"));
    let stream = offered(&mut server);
    let mut server = thread::scope(|scope| {
        // It is there all the while.
        let server = scope.spawn(move || {
            assert_eq!(server.hear_all(stream).reset, Some(48));
            server
        });
        let bytes = vec![48, 10, 0, 0];
        assert_eq!(client.hear_all(asked), Heard { bytes, reset: None });
        assert_eq!(client.stopped(asked), 48);
        server.join().expect("it is told")
    });
    expect_count(admin, &refused("not_accepted_in_time"), 1.0);
    // One that is not there is known by its silence.
    let asked = client.open_with(&open("home", "22"));
    let since = clock::now();
    let bytes = vec![44, 10, 0, 0];
    assert_eq!(client.hear_all(asked), Heard { bytes, reset: None });
    assert!(clock::now().since(since).as_secs() < 5);
    assert_eq!(client.stopped(asked), 44);
    let stream = server.accept();
    assert_eq!(server.hear_all(stream).reset, Some(44));
    // The same where it goes away meanwhile.
    let asked = client.open_with(&open("home", "22"));
    let _ = offered(&mut server);
    server.close();
    let bytes = vec![44, 10, 0, 0];
    assert_eq!(client.hear_all(asked), Heard { bytes, reset: None });
    until("nobody to be there", || {
        let asked = client.open_with(&open("home", "22"));
        let heard = client.hear_all(asked);
        client.finish(asked);
        (heard.bytes == [44, 10, 0, 0]).then_some(())
    });
    check_serving(&meeting);
}
