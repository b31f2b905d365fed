//! Listeners that are for one thing: that is served, and all else is closed and counted.

use super::jet_client::new_place;
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
    assert_eq!(relay.counters().count("refused.other_listener"), refused);
    assert_eq!(relay.counters().count("paired"), 4);
}
