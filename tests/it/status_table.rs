//! What each request is answered, in whichever way it is cut.

use std::io::Write;
use std::net::SocketAddr;

use midspan::protocol::jet::{Place, Request, Version};

use super::jet_client::{
    End, accept, accept_minted, ask, connect, dial, granted, implicit, in_version_1, minted,
    new_association, new_place, one_way, packet, packet_of, pair, ping_pong, read_reply,
    read_to_end, refused, test,
};
use super::patience::until;
use super::peers::dribbles::dribble;
use super::peers::half_closes::half_close;
use super::peers::resets::reset;
use super::relay_process::Relay;

/// Both versions, as requests for the same.
fn versions(request: Request) -> [Request; 2] {
    [request, in_version_1(request)]
}

#[test]
fn accept_connect_and_test_in_both_versions() {
    let relay = Relay::start(&["--jet-instance", "relay.example:99"]);
    let address = relay.address;

    // The relay makes the id and tells it with everything that known peers want.
    let (mut acceptor, reply) = ask(address, &accept_minted());
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::V1));
    let details = reply.details.expect("version 1 has details");
    assert_eq!(details.association.get_version_num(), 4);
    assert_eq!(
        details.instance.expect("an instance").as_str(),
        "relay.example:99"
    );
    assert_eq!(details.timeout_s, Some(300));
    let (mut connector, reply) = ask(
        address,
        &in_version_1(connect(implicit(details.association))),
    );
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::V1));
    assert_eq!(reply.details, None);
    ping_pong(&mut connector, &mut acceptor);

    // The peer names the place, with one id or two.
    for place in [new_place(), new_association()] {
        refused(address, &test(place), 404);
        let (mut acceptor, reply) = ask(address, &accept(place));
        assert_eq!((reply.status.as_u16(), reply.version), (200, Version::V2));
        assert_eq!(reply.details, None);
        refused(address, &test(place), 200);
        let (mut connector, reply) = ask(address, &connect(place));
        assert_eq!((reply.status.as_u16(), reply.version), (200, Version::V2));
        ping_pong(&mut connector, &mut acceptor);
    }

    // A path with version 1: the place is the path's, the reply is version 1's.
    let place = new_place();
    let (mut acceptor, reply) = ask(address, &in_version_1(accept(place)));
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::V1));
    assert_eq!(
        reply.details.expect("version 1 has details").association,
        place.association
    );
    let (mut connector, reply) = ask(address, &in_version_1(connect(place)));
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::V1));
    ping_pong(&mut connector, &mut acceptor);
}

#[test]
fn the_forms_of_ids_meet() {
    let relay = Relay::start(&[]);
    let address = relay.address;
    let meet = |acceptor: &mut _, request: Request| {
        ping_pong(&mut granted(address, &request), acceptor);
    };
    // The relay's own id, connected by a path with one id.
    let (mut acceptor, association) = minted(address);
    meet(&mut acceptor, connect(implicit(association)));
    // Accepted with two ids, connected with one, by path and by header, whether or not somebody
    // waited by the one id before.
    for is_implicit_known in [false, true] {
        for version in 0..2 {
            let place = new_place();
            let one_id = implicit(place.association);
            if is_implicit_known {
                let mut former = granted(address, &accept(one_id));
                half_close(&mut former, b"");
                assert_eq!(read_to_end(&mut former), (Vec::new(), End::Closed));
            }
            let mut acceptor = granted(address, &accept(place));
            meet(&mut acceptor, versions(connect(one_id))[version]);
        }
    }
}

#[test]
fn unknown_places_are_404() {
    let relay = Relay::start(&["--create-on-accept=false"]);
    let address = relay.address;
    for request in versions(connect(new_association())) {
        refused(address, &request, 404);
    }
    for request in [connect(new_place()), test(new_place())]
        .into_iter()
        .flat_map(versions)
    {
        refused(address, &request, 404);
    }
    for place in [new_place(), new_association()] {
        refused(address, &accept(place), 404);
        let (_, reply) = ask(address, &in_version_1(accept(place)));
        assert_eq!(reply.status.as_u16(), 404);
    }
    // A known association without that candidate.
    let (mut acceptor, association) = minted(address);
    let place = Place {
        association,
        ..new_place()
    };
    for request in [accept(place), connect(place), test(place)] {
        refused(address, &request, 404);
    }
    let mut connector = granted(address, &connect(implicit(association)));
    ping_pong(&mut connector, &mut acceptor);
}

#[test]
fn an_acceptor_creates_what_it_names_where_it_may() {
    let relay = Relay::start(&["--create-on-accept"]);
    let place = new_place();
    let _acceptor = granted(relay.address, &accept(place));
    // A second candidate of the same association.
    let other = Place {
        association: place.association,
        ..new_place()
    };
    refused(relay.address, &connect(other), 404);
    let _acceptor = granted(relay.address, &accept(other));
    refused(relay.address, &test(other), 200);
}

#[test]
fn requests_that_make_no_sense_are_400() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let (a, c) = (place.association, place.candidate.expect("two ids"));
    let root = "GET / HTTP/1.1\r\nHost: h\r\nJet-Method: Connect\r\nJet-Version: 1\r\n";
    for (head, version) in [
        (format!("{root}\r\n"), Version::V1),
        (
            format!("{root}Jet-Association: 300f1c82\r\n\r\n"),
            Version::V1,
        ),
        (
            format!("GET /jet/accept/{a}/{c} HTTP/1.1\r\nHost: h\r\nJet-Version: 3\r\n\r\n"),
            Version::V2,
        ),
        (
            format!("GET /jet/connect/{a}/{c} HTTP/1.1\r\nHost: h\r\nJet-Version: 3\r\n\r\n"),
            Version::V2,
        ),
        (
            "GET /jet/accept/x/y HTTP/1.1\r\nHost: h\r\nJet-Version: 2\r\n\r\n".to_owned(),
            Version::V2,
        ),
        (
            format!("GET /jet/accept/{a}/y HTTP/1.1\r\nHost: h\r\nJet-Version: 2\r\n\r\n"),
            Version::V2,
        ),
        (
            "GET /elsewhere HTTP/1.1\r\nHost: h\r\nJet-Version: 2\r\n\r\n".to_owned(),
            Version::V2,
        ),
    ] {
        let mut stream = dial(relay.address);
        stream.write_all(&packet_of(&head)).expect("sent");
        let reply = read_reply(&mut stream);
        assert_eq!(
            (reply.status.as_u16(), reply.version),
            (400, version),
            "{head}"
        );
        assert_eq!(
            read_to_end(&mut stream),
            (Vec::new(), End::Closed),
            "{head}"
        );
    }
}

#[test]
fn one_session_at_a_candidate_and_then_none() {
    let relay = Relay::start(&[]);
    let address = relay.address;
    for place in [new_place(), new_association()] {
        let (mut acceptor, mut connector) = pair(address, place);
        // While connected.
        refused(address, &connect(place), 400);
        refused(address, &accept(place), 400);
        ping_pong(&mut acceptor, &mut connector);
        // After its end.
        drop(connector);
        assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Closed));
        drop(acceptor);
        until("the association to be deleted", || {
            let (_, reply) = ask(address, &connect(place));
            (reply.status.as_u16() == 404).then_some(())
        });
        refused(address, &test(place), 404);
    }
}

#[test]
fn a_second_acceptor_replaces_the_first() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let mut first = granted(relay.address, &accept(place));
    let mut second = granted(relay.address, &accept(place));
    assert_eq!(read_to_end(&mut first), (Vec::new(), End::Closed));
    let mut connector = granted(relay.address, &connect(place));
    ping_pong(&mut connector, &mut second);
}

#[test]
fn an_acceptor_that_died_is_noticed() {
    let relay = Relay::start(&[]);
    let place = new_place();
    // It closes, and the relay closes too.
    let mut acceptor = granted(relay.address, &accept(place));
    half_close(&mut acceptor, b"");
    assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Closed));
    refused(relay.address, &connect(place), 400);
    // It resets, with words of its own unread or without. The RST is there before the connector
    // dials; whether the relay has heard of it is another matter.
    for round in 0..100 {
        let banner = [&b""[..], b"banner"][round % 2];
        let mut acceptor = granted(relay.address, &accept(place));
        acceptor.write_all(banner).expect("sent");
        reset(acceptor);
        refused(relay.address, &connect(place), 400);
    }
    // The place is still good for another one.
    let (mut acceptor, mut connector) = pair(relay.address, place);
    ping_pong(&mut acceptor, &mut connector);
}

#[test]
fn an_acceptor_that_only_said_its_last_word_is_kept() {
    let relay = Relay::start(&[]);
    for round in 0..2 {
        let place = new_place();
        let mut acceptor = dial(relay.address);
        if round == 0 {
            acceptor.write_all(&packet(&accept(place))).expect("sent");
            half_close(&mut acceptor, b"banner");
        } else {
            // In one segment with the request.
            half_close(
                &mut acceptor,
                &[&packet(&accept(place))[..], b"banner"].concat(),
            );
        }
        assert_eq!(read_reply(&mut acceptor).status.as_u16(), 200);
        let mut connector = granted(relay.address, &connect(place));
        assert_eq!(
            read_to_end(&mut connector),
            (b"banner".to_vec(), End::Closed)
        );
        half_close(&mut connector, b"answer");
        assert_eq!(
            read_to_end(&mut acceptor),
            (b"answer".to_vec(), End::Closed)
        );
    }
}

#[test]
fn bytes_behind_a_request_are_delivered_first() {
    let relay = Relay::start(&[]);
    for place in [new_place(), new_association()] {
        let mut acceptor = dial(relay.address);
        acceptor
            .write_all(&[&packet(&accept(place))[..], b"one "].concat())
            .expect("sent");
        assert_eq!(read_reply(&mut acceptor).status.as_u16(), 200);
        acceptor.write_all(b"two").expect("sent");
        let mut connector = dial(relay.address);
        connector
            .write_all(&[&packet(&connect(place))[..], b"three "].concat())
            .expect("sent");
        assert_eq!(read_reply(&mut connector).status.as_u16(), 200);
        half_close(&mut connector, b"four");
        assert_eq!(
            read_to_end(&mut acceptor),
            (b"three four".to_vec(), End::Closed)
        );
        half_close(&mut acceptor, b"");
        assert_eq!(
            read_to_end(&mut connector),
            (b"one two".to_vec(), End::Closed)
        );
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    let relay = Relay::start(&[]);
    let address = relay.address;
    let dribbled = |request: &Request, status: u16| {
        let mut stream = dial(address);
        dribble(&mut stream, &packet(request));
        let reply = read_reply(&mut stream);
        assert_eq!(reply.status.as_u16(), status, "{request:?}");
        (stream, reply)
    };
    let place = new_place();
    dribbled(&test(place), 404);
    dribbled(&connect(place), 404);
    let (mut acceptor, _) = dribbled(&accept(place), 200);
    dribbled(&test(place), 200);
    let (mut connector, _) = dribbled(&connect(place), 200);
    ping_pong(&mut connector, &mut acceptor);
    let (mut acceptor, reply) = dribbled(&accept_minted(), 200);
    let association = reply.details.expect("version 1 has details").association;
    let (mut connector, _) = dribbled(&in_version_1(connect(implicit(association))), 200);
    ping_pong(&mut connector, &mut acceptor);
}

/// Sends `request` in two pieces, cut at every place, each time with words behind it.
fn check_every_cut(address: SocketAddr, request: impl Fn(Place) -> Request) {
    let length = packet(&request(new_place())).len();
    for cut in 1..length {
        let place = new_place();
        let bytes = [&packet(&request(place))[..], b"words"].concat();
        let mut acceptor = dial(address);
        acceptor.write_all(&bytes[..cut]).expect("sent");
        // Answered from the relay's loop, so it has most likely read the first piece by now.
        refused(address, &test(place), 404);
        acceptor.write_all(&bytes[cut..]).expect("sent");
        assert_eq!(
            read_reply(&mut acceptor).status.as_u16(),
            200,
            "cut at {cut}"
        );
        let mut connector = granted(address, &connect(place));
        half_close(&mut acceptor, b"");
        assert_eq!(
            read_to_end(&mut connector),
            (b"words".to_vec(), End::Closed),
            "cut at {cut}"
        );
    }
}

#[test]
fn requests_may_be_cut_anywhere() {
    let relay = Relay::start(&["--cores", "1"]);
    check_every_cut(relay.address, accept);
    check_every_cut(relay.address, |place| in_version_1(accept(place)));
}

#[test]
fn replies_are_as_written_down() {
    let relay = Relay::start(&[]);
    let place = new_place();
    let mut acceptor = granted(relay.address, &accept(place));
    let (a, c) = (place.association, place.candidate.expect("two ids"));
    // Any mask, any case, any form of an id, a query, one slash at the end, bare line feeds.
    let head = format!(
        "get /JET/Connect/{}/{}/?token=x HTTP/1.1\nhOST: h\nX: y\njet-version: 2\n\n",
        a.simple().to_string().to_uppercase(),
        c.braced()
    );
    let mask = 0xa5;
    let mut bytes = packet_of(&head);
    bytes[6] = 1; // flags mean nothing
    bytes[7] = mask;
    for (byte, plain) in bytes[8..].iter_mut().zip(head.bytes()) {
        *byte = plain ^ mask;
    }
    let mut connector = dial(relay.address);
    connector.write_all(&bytes).expect("sent");
    let plain = b"HTTP/1.1 200 OK\r\nJet-Version: 2\r\n\r\n";
    let mut expected = vec![b'J', b'E', b'T', 0, 0, 43, 0, mask];
    expected.extend(plain.iter().map(|byte| byte ^ mask));
    let mut reply = vec![0; expected.len()];
    std::io::Read::read_exact(&mut connector, &mut reply).expect("a reply");
    assert_eq!(reply, expected);
    ping_pong(&mut connector, &mut acceptor);
}

#[test]
fn version_1_can_be_switched_off() {
    let relay = Relay::start(&["--jet-v1", "deny"]);
    let address = relay.address;
    // The relay makes no association, whichever version the head says.
    let in_version_2 = Request {
        version: Version::V2,
        ..accept_minted()
    };
    for request in [accept_minted(), in_version_2] {
        let (_, reply) = ask(address, &request);
        assert_eq!(reply.status.as_u16(), 403, "{request:?}");
    }
    // Who names one is served, whichever version the head says.
    for place in [new_place(), new_association()] {
        for [accepts, connects] in [
            [accept(place), connect(place)],
            [accept(place), in_version_1(connect(place))],
            [in_version_1(accept(place)), connect(place)],
            [in_version_1(accept(place)), in_version_1(connect(place))],
        ] {
            let mut acceptor = granted(address, &accepts);
            let mut connector = granted(address, &connects);
            ping_pong(&mut acceptor, &mut connector);
            drop((acceptor, connector));
            until("the session to end", || {
                let (_, reply) = ask(address, &test(place));
                (reply.status.as_u16() == 404).then_some(())
            });
        }
    }
    // On `/` and on the path alike.
    for request in versions(connect(new_association())) {
        refused(address, &request, 404);
    }
    let ended = relay.stop();
    assert_eq!(ended.counters.count("refused.v1_denied"), 2);
}

#[test]
fn a_connect_on_the_root_may_say_either_version() {
    let relay = Relay::start(&[]);
    for version in ["1", "2"] {
        let (mut acceptor, association) = minted(relay.address);
        let mut connector = dial(relay.address);
        let head = format!(
            "GET / HTTP/1.1\r\nHost: h\r\nJet-Method: Connect\r\n\
             Jet-Association: {association}\r\nJet-Version: {version}\r\n\r\n"
        );
        connector.write_all(&packet_of(&head)).expect("sent");
        let reply = read_reply(&mut connector);
        assert_eq!(reply.status.as_u16(), 200);
        let says_version_1 = reply.version == Version::V1;
        assert_eq!(says_version_1, version == "1");
        ping_pong(&mut connector, &mut acceptor);
    }
}

#[test]
fn acceptors_wait_until_their_association_expires() {
    let relay = Relay::start(&["--limit", "association_ttl_s=10"]);
    let place = new_place();
    let mut joined = pair(relay.address, new_place());
    let mut silent = granted(relay.address, &accept(place));
    let (mut eager, reply) = ask(relay.address, &accept_minted());
    let details = reply.details.expect("version 1 has details");
    assert_eq!(details.timeout_s, Some(10));
    eager.write_all(b"banner").expect("sent");
    // Closed without a word.
    assert_eq!(read_to_end(&mut silent), (Vec::new(), End::Closed));
    assert_eq!(read_to_end(&mut eager).0, b"");
    refused(relay.address, &connect(place), 404);
    refused(relay.address, &connect(implicit(details.association)), 404);
    // A pair is not bound by it.
    one_way(&mut joined.0, &mut joined.1, b"still here");
}
