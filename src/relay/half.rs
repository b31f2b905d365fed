//! One connection in two pairs: of one it is the source, of the other the sink.
//!
//! ```text
//!   pair   source ──────> a leg that is sent to
//!   pair   sink   <────── a leg that is read
//! ```
//!
//! Each has a descriptor of its own. A pair says nothing to a source and hears nothing from a
//! sink. What one pair does to the connection as a whole, the other has to know: once both
//! have ended their ways, the connection looks as if it had been reset.

use std::cell::Cell;
use std::rc::Rc;

/// What such a connection is to one of its pairs.
#[derive(Clone, Debug)]
pub struct Half {
    role: Role,
    /// The sink was told that nothing follows.
    is_shut: Rc<Cell<bool>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Source,
    Sink,
}

impl Half {
    /// The source and the sink.
    #[must_use]
    pub fn both() -> [Self; 2] {
        let is_shut = Rc::<Cell<bool>>::default();
        [Role::Source, Role::Sink].map(|role| Self {
            role,
            is_shut: Rc::clone(&is_shut),
        })
    }

    /// Whether it is the one that nothing comes from.
    pub(super) fn is_sink(&self) -> bool {
        self.role == Role::Sink
    }

    /// Whether it is the one that nothing goes to.
    pub(super) fn is_source(&self) -> bool {
        self.role == Role::Source
    }

    /// The sink is told that nothing follows.
    pub(super) fn handle_shut(&self) {
        self.is_shut.set(true);
    }

    /// Whether the connection was told so.
    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.get()
    }
}
