//! PTTH over QUIC by a path of two seconds, there and back.

use std::time::Duration;

use super::agents::{check_echo, echo, service};
use super::peers::udp_link::{UdpLink, Way};
use super::ptth_quic::{expose, meeting};

/// One way.
const DELAY: Duration = Duration::from_secs(1);

#[test]
fn a_slow_path_is_not_taken_for_a_dead_one() {
    let mut meeting = meeting(&["--cores", "1"]);
    let relay = meeting.quic_address();
    let slow = Way {
        delay: DELAY,
        ..Way::default()
    };
    let link = UdpLink::new(relay, slow, 7);
    meeting.lead_by(link.address);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    meeting.lead_by(relay);
    let (_forward, local) = meeting.forward("home");
    // Each takes some round trips, and in between nothing comes for one.
    for client in 0..2 {
        check_echo(local, client, 100_000);
    }
    let said = expose.whole_log();
    for told in ["does not answer", "is away", "is lost"] {
        assert!(!said.contains(told), "{said}");
    }
    assert_eq!(said.matches("joined the relay").count(), 1, "{said}");
}
