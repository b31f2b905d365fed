//! Says when the relay goes away and when it is back, once each.

use std::cell::Cell;

use tracing::{info, warn};

use super::error::AgentError;
use super::leg::LegError;
use super::way::Way;
use crate::protocol::jet::Status;

/// What one shard's tasks know of the relay together.
#[derive(Debug)]
pub(super) struct RelayWatch {
    pub(super) way: Way,
    presence: Presence,
}

/// Whether the relay is there, as it was found last.
#[derive(Debug)]
pub(super) struct Presence(Cell<State>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It never let anybody wait.
    New,
    Up,
    Down,
}

impl Default for Presence {
    fn default() -> Self {
        Self(Cell::new(State::New))
    }
}

impl Presence {
    /// It is there; whether that is news.
    pub(super) fn handle_success(&self) -> bool {
        self.0.replace(State::Up) != State::Up
    }

    /// It is not; whether that is news.
    pub(super) fn handle_failure(&self) -> bool {
        self.0.replace(State::Down) != State::Down
    }

    pub(super) fn is_down(&self) -> bool {
        self.0.get() == State::Down
    }

    /// Whether it never was found to be there, or not.
    pub(super) fn is_new(&self) -> bool {
        self.0.get() == State::New
    }
}

impl RelayWatch {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            presence: Presence::default(),
        }
    }

    /// The relay lets a leg wait.
    pub(super) fn handle_success(&self) {
        if self.presence.handle_success() {
            info!(relay = %self.way, "waiting at the relay");
        }
    }

    /// The relay does not let a leg wait.
    ///
    /// # Errors
    ///
    /// When trying again would not change it.
    pub(super) fn handle_failure(&self, error: LegError) -> Result<(), AgentError> {
        let relay = || self.way.url.clone();
        match error {
            LegError::Refused(status @ (Status::NOT_FOUND | Status::BAD_REQUEST)) => {
                let relay = relay();
                return Err(AgentError::CreationRefused { relay, status });
            }
            LegError::Refused(status @ Status::FORBIDDEN) => {
                let relay = relay();
                return Err(AgentError::TurnedAway { relay, status });
            }
            // A relay that served before may be restarting behind something
            // that speaks for it meanwhile.
            LegError::NotJet(source) if self.presence.is_new() => {
                let relay = relay();
                return Err(AgentError::NotJet { relay, source });
            }
            _ => {}
        }
        if self.presence.handle_failure() {
            let next = error.next_step();
            warn!(relay = %self.way, %error, next, "cannot wait at the relay; trying again");
        }
        Ok(())
    }
}
