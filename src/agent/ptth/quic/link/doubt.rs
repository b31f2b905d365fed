//! Doubts: whether what was sent to the relay has gone unanswered for too long.

use std::time::Duration;

use super::Link;
use crate::quic::connection::ConnectionKey;

/// Silence after something was sent, until a connection is in doubt.
const DOUBT_TIME: Duration = Duration::from_millis(1500);
/// Looks in a row that find it so.
const DOUBTS: u32 = 2;

impl Link {
    /// Waits until a connection is in doubt. Whoever stood still himself finds what has come
    /// meanwhile by the second look, and an answer to what he asked at the first.
    pub(super) async fn doubted(&self, connection: ConnectionKey) {
        let mut doubts = 0;
        while doubts < DOUBTS {
            self.look_later().await;
            doubts = match self.is_in_doubt(connection) {
                true => doubts + 1,
                false => 0,
            };
        }
    }

    /// Waits until it no longer is.
    pub(super) async fn heard_again(&self, connection: ConnectionKey) {
        while self.is_in_doubt(connection) {
            self.look_later().await;
        }
    }

    pub(super) fn is_in_doubt(&self, connection: ConnectionKey) -> bool {
        let Some(health) = self.health_of(connection) else {
            return false;
        };
        let now = self.world.reactor.now();
        let since = health.silent_since;
        let silence = since.map_or(Duration::ZERO, |since| now.since(since));
        let time = doubt_time(health.round_trip);
        // What was sent may have been nothing that is answered: where all bytes come from the
        // relay, acknowledgements alone go to it.
        if silence > time / 2 {
            let streams = &self.world.streams;
            streams.with_driver(|driver| driver.ping(connection));
        }
        silence > time
    }
}

/// How long something may go unanswered: three times what QUIC waits until it asks once more
/// (RFC 9002 §6.2.1), which on a steady path is little more than the round trip.
fn doubt_time(round_trip: Duration) -> Duration {
    DOUBT_TIME.max(round_trip * 9 / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_the_path_the_later_the_doubt() {
        let check = |round_trip_ms, expected_ms| {
            let doubt = doubt_time(Duration::from_millis(round_trip_ms));
            assert_eq!(doubt, Duration::from_millis(expected_ms));
        };
        check(0, 1500);
        check(300, 1500);
        check(2000, 9000);
    }
}
