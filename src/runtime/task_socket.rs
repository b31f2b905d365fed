//! A socket of which one task is told what comes in, until the task drops it.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::poll_table::PollKey;
use super::reactor::{Closing, Reactor};
use super::readiness::Readiness;
use super::socket::Socket;

/// A watched socket with its way back: dropped, it is closed with its poll.
pub(super) struct TaskSocket {
    reactor: Rc<Reactor>,
    /// `None` only after `drop` took it.
    socket: Option<Socket>,
    poll: PollKey,
}

impl TaskSocket {
    pub(super) fn new(reactor: Rc<Reactor>, socket: Socket) -> Self {
        let poll = reactor.watch_input(&socket);
        Self {
            reactor,
            socket: Some(socket),
            poll,
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        match &self.socket {
            Some(socket) => socket,
            None => unreachable!("only its drop takes it"),
        }
    }

    pub(super) const fn reactor(&self) -> &Rc<Reactor> {
        &self.reactor
    }

    /// What was told since it was asked last; has the task woken when there is something.
    pub(super) fn poll_readiness(&self, context: &Context<'_>) -> Poll<Readiness> {
        self.reactor.poll_readiness(self.poll, context)
    }
}

impl Drop for TaskSocket {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.reactor.retire(self.poll, socket, Closing::Clean);
        }
    }
}
