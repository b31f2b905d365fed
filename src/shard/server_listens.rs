//! Requests of servers that listen, each server's counted by one shard for all of them: its
//! ports may live on any.
//!
//! As with users' sessions, a request that the counting shard counts and whose answer comes
//! too late is taken back.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::rendezvous::{Message, RelayService};
use super::rest::Ask;
use super::user_sessions::{ByHolder, SessionId};
use crate::association::key::ShardId;
use crate::protocol::ptth_http::Name;
use crate::session::refused::Refused;

/// What one shard counts for all, and the number of the last request that it asked about.
#[derive(Debug, Default)]
pub(super) struct ServerListens {
    waiting: RefCell<ByHolder<Name>>,
    last: Cell<u64>,
}

/// A request that listens, by the shard that owns its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub server: Name,
    pub request: SessionId,
}

/// One that is counted, until it is dropped.
pub(super) struct Listening {
    service: Rc<RelayService>,
    by: ShardId,
    listen: Listen,
}

impl ServerListens {
    /// Counts a request, if there are fewer of its server than it may have.
    pub(super) fn begin(&self, listen: Listen, max: usize) -> Result<(), Refused> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.count(&listen.server) >= max {
            return Err(Refused::TooManyListens);
        }
        waiting.insert(listen.server, listen.request);
        Ok(())
    }

    /// Takes a request back, which may never have been counted.
    pub(super) fn end(&self, listen: &Listen) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.remove(&listen.server, listen.request);
    }
}

impl RelayService {
    /// Has a request count for its server, if that may have another.
    pub(super) async fn begin_listening(
        self: &Rc<Self>,
        server: &Name,
    ) -> Result<Listening, Refused> {
        let last = &self.forwards.listens.last;
        last.set(last.get() + 1);
        let listen = Listen {
            server: server.clone(),
            request: SessionId {
                shard: self.world.shard,
                number: last.get(),
            },
        };
        // Dropped on the way, it is taken back.
        let listening = Listening {
            service: Rc::clone(self),
            by: self.owner_of(server.as_str().as_bytes()),
            listen: listen.clone(),
        };
        self.ask_shard(listening.by, Ask::Listen(listen)).await?;
        Ok(listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Self {
            service,
            by,
            listen,
        } = self;
        // At once where that can be: the server asks again as soon as it is answered.
        if *by == service.world.shard {
            return service.forwards.listens.end(listen);
        }
        // A shard that has ended counts no more.
        let _ = service.world.send(*by, Message::ListenOver(listen.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_so_many_whichever_shards_they_wait_on() {
        let listens = ServerListens::default();
        let listen = |server: &str, shard, number| Listen {
            server: server.parse().unwrap(),
            request: SessionId {
                shard: ShardId(shard),
                number,
            },
        };
        let begin = |server, shard, number| listens.begin(listen(server, shard, number), 2);
        assert_eq!([begin("home", 0, 1), begin("home", 1, 1)], [Ok(()); 2]);
        assert_eq!(begin("home", 0, 2), Err(Refused::TooManyListens));
        assert_eq!(begin("lab", 0, 3), Ok(()));
        // One that was refused is taken back as well.
        listens.end(&listen("home", 0, 2));
        assert_eq!(begin("home", 0, 4), Err(Refused::TooManyListens));
        listens.end(&listen("home", 1, 1));
        assert_eq!(begin("home", 0, 5), Ok(()));
    }
}
