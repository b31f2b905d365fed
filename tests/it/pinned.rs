//! Listeners that are for one thing: that is served, and all else is closed and counted.

use std::io::Write;

use super::jet_client::{dial, new_place, packet_of, read_to_end};
use super::relay_process::Relay;
use super::transports::{Leg, Role, Transport, is_closed_in_silence};

#[test]
fn a_pinned_listener_serves_one_transport() {
    let mut relay = Relay::start(&[
        "--create-on-accept",
        "--listen",
        "jet+tcp://127.0.0.1:0",
        "--listen",
        "jet+tls://127.0.0.1:0",
        "--listen",
        "jet+ws://127.0.0.1:0",
        "--listen",
        "jet+wss://127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
    ]);
    let addresses = relay.addresses.clone();
    let (for_all, pinned) = addresses.split_last().expect("five listeners");
    let mut refused = 0;
    for (listener, served) in pinned.iter().zip(Transport::ALL) {
        for transport in Transport::ALL {
            let place = new_place();
            let mut acceptor = Leg::come(*for_all, transport, Role::Accept, place, b"");
            if transport == served {
                let mut connector = Leg::come(*listener, transport, Role::Connect, place, b"");
                connector.write_all(b"hello");
                acceptor.expect(b"hello");
            } else {
                assert!(
                    is_closed_in_silence(*listener, transport, place),
                    "{transport:?} at a listener for {served:?}"
                );
                refused += 1;
            }
        }
    }
    // Where JET in the clear is not served, nor is what would be it.
    for listener in &pinned[1..] {
        let mut stream = dial(*listener);
        let packet = packet_of("GET /jet/listen/x HTTP/1.1\r\nHost: h\r\nJet-Version: 2\r\n\r\n");
        stream.write_all(&packet).expect("sent");
        assert_eq!(read_to_end(&mut stream).0, b"");
        refused += 1;
    }
    assert_eq!(relay.counters().count("refused.other_listener"), refused);
    assert_eq!(relay.counters().count("paired"), 4);
}
