//! Doubts: whether what was sent to the relay has gone unanswered for too long.

use std::time::Duration;

use super::Link;
use crate::quic::connection::ConnectionKey;

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
        let time = health.patience();
        // What was sent may have been nothing that is answered: where all bytes come from the
        // relay, acknowledgements alone go to it.
        if silence > time / 2 {
            let streams = &self.world.streams;
            streams.with_driver(|driver| driver.ping(connection));
        }
        silence > time
    }
}
