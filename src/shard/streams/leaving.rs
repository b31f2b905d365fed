//! Connections that are to be closed, and are not until nothing would be lost by that: a close
//! drops what was written and is not acknowledged.

use quinn_proto::ConnectionError;

use super::{Inner, Streams};
use crate::protocol::ptth_quic::CloseCode;
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::runtime::clock;

/// A connection that is closed as soon as it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    connection: ConnectionKey,
    lasting: usize,
    why: CloseCode,
    reason: &'static str,
}

impl Streams {
    /// Closes a connection once nothing is joined with its streams, and all that was written to
    /// them is acknowledged, but for so many that last: 1 once it has said hello, whose stream
    /// has no end. The service hears that it is lost.
    pub fn leave(
        &self,
        connection: ConnectionKey,
        lasting: usize,
        why: CloseCode,
        reason: &'static str,
    ) {
        if let Some(inner) = &mut *self.inner.borrow_mut() {
            inner.leaving.retain(|one| one.connection != connection);
            inner.leaving.push(Leaving {
                connection,
                lasting,
                why,
                reason,
            });
            inner.close_idle();
        }
    }

    /// Whether one has to be waited for.
    pub(in crate::shard) fn is_leaving(&self) -> bool {
        let inner = self.inner.borrow();
        inner
            .as_ref()
            .is_some_and(|inner| !inner.leaving.is_empty())
    }
}

impl Inner {
    /// Closes those that may go now.
    pub(super) fn close_idle(&mut self) {
        for one in std::mem::take(&mut self.leaving) {
            match self.driver.unfinished_streams(one.connection) {
                Some(streams) if streams > one.lasting || self.plane.has_any_of(one.connection) => {
                    self.leaving.push(one);
                }
                Some(_) => self.close_leaving(one),
                // It is gone already, which was told.
                None => {}
            }
        }
    }

    /// Closes all of them, whatever is lost.
    pub(super) fn close_at_once(&mut self) {
        for one in std::mem::take(&mut self.leaving) {
            self.close_leaving(one);
        }
    }

    fn close_leaving(&mut self, one: Leaving) {
        let now = clock::now();
        self.driver
            .close(one.connection, one.why.value(), one.reason, now);
        self.wake_all_of(one.connection);
        let why = ConnectionError::LocallyClosed;
        self.events.push_back(QuicEvent::Lost(one.connection, why));
    }
}
