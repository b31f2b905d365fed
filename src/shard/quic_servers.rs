//! Where the proxies of servers are: every shard knows all of them.
//!
//! A shard to which one comes tells the others. Of two of one name the newer one holds, by the
//! clock that all shards have, whoever hears of which first; each shard lets a connection of its
//! own go that holds no more.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::rendezvous::{Message, RelayService};
use super::rest::Answered;
use crate::association::key::ShardId;
use crate::protocol::ptth_name::Name;
use crate::protocol::ptth_quic::Role;
use crate::quic::connection::ConnectionKey;
use crate::runtime::clock;
use crate::time::Timestamp;

/// The servers that any shard has a connection of.
#[derive(Debug, Default)]
pub(super) struct QuicServers {
    places: RefCell<HashMap<Name, ServerPlace, ahash::RandomState>>,
    /// By connections of this shard, as the others were told.
    own: RefCell<HashMap<ConnectionKey, ServerPlace, ahash::RandomState>>,
}

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPlace {
    pub shard: ShardId,
    pub connection: ConnectionKey,
    /// Since when.
    joined_at: Timestamp,
}

/// What has become of a server's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Joined,
    Left,
}

impl ServerPlace {
    /// Whether it holds, and not the other one.
    fn is_newer_than(self, other: Self) -> bool {
        let order = |place: Self| (place.joined_at, place.shard.0, place.connection);
        order(self) > order(other)
    }
}

impl QuicServers {
    /// Where a server is, if it is anywhere.
    pub(super) fn find(&self, server: &Name) -> Option<ServerPlace> {
        self.places.borrow().get(server).copied()
    }

    /// A server has joined. Gives the place that holds no more, which may be this one.
    fn join(&self, server: Name, place: ServerPlace) -> Option<ServerPlace> {
        let mut places = self.places.borrow_mut();
        match places.get_mut(&server) {
            Some(held) if place.is_newer_than(*held) => Some(std::mem::replace(held, place)),
            Some(held) => Some(place).filter(|place| place != held),
            None => {
                places.insert(server, place);
                None
            }
        }
    }

    /// A server has left, unless it is somewhere else by now.
    fn leave(&self, server: &Name, place: ServerPlace) {
        let mut places = self.places.borrow_mut();
        if places.get(server) == Some(&place) {
            places.remove(server);
        }
    }
}

impl RelayService {
    /// Where a server is but `former`, if it is anywhere by all that shards have said before this
    /// is asked. Whom another shard has let in it has told this one of first; that may wait in
    /// the inbox yet, while whoever was waiting for the server asks already.
    pub(super) async fn find_server(
        &self,
        server: &Name,
        former: Option<ServerPlace>,
    ) -> Option<ServerPlace> {
        let find = || {
            self.quic_servers
                .find(server)
                .filter(|&place| Some(place) != former)
        };
        if let Some(place) = find() {
            return Some(place);
        }
        self.hear_what_was_said().await;
        find()
    }

    /// Waits until all is heard that other shards have said by now.
    async fn hear_what_was_said(&self) {
        let question = self.questions.open();
        let message = Message::Told {
            question: question.id(),
            told: Ok(Answered::Done),
        };
        // Behind all that is in the inbox.
        if self.world.send(self.world.shard, message).is_ok() {
            let _ = question.answer().await;
        }
    }

    /// A server's proxy has joined by a connection of this shard's.
    pub(super) fn server_joined(self: &Rc<Self>, server: &Name, connection: ConnectionKey) {
        let place = ServerPlace {
            shard: self.world.shard,
            connection,
            joined_at: clock::now(),
        };
        self.quic_servers.own.borrow_mut().insert(connection, place);
        self.hear_of_server(server.clone(), place, Presence::Joined);
        self.tell_of_server(server, place, Presence::Joined);
    }

    /// A connection of this shard's is gone that was a server's. Also where it held no more
    /// here, another shard may not have heard yet of the one that does.
    pub(super) fn server_left(&self, server: &Name, connection: ConnectionKey) {
        let place = self.quic_servers.own.borrow_mut().remove(&connection);
        if let Some(place) = place {
            self.quic_servers.leave(server, place);
            self.tell_of_server(server, place, Presence::Left);
        }
    }

    fn tell_of_server(&self, server: &Name, place: ServerPlace, presence: Presence) {
        for shard in 0..self.world.shards.len() {
            let shard = ShardId(u16::try_from(shard).unwrap_or(u16::MAX));
            let message = Message::Server {
                server: server.clone(),
                place,
                presence,
            };
            if shard != self.world.shard {
                // One that has ended leads nobody anywhere.
                let _ = self.world.send(shard, message);
            }
        }
    }

    /// A server's proxy has joined, here or at another shard, or has left there.
    pub(super) fn hear_of_server(
        self: &Rc<Self>,
        server: Name,
        place: ServerPlace,
        presence: Presence,
    ) {
        match presence {
            Presence::Left => self.quic_servers.leave(&server, place),
            Presence::Joined => {
                let former = self.quic_servers.join(server.clone(), place);
                self.lead_all_by_quic(&server);
                if let Some(former) = former.filter(|former| former.shard == self.world.shard) {
                    self.replace(former.connection, Role::ServerSide);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Key;

    fn place(shard: u16, at: u64) -> ServerPlace {
        ServerPlace {
            shard: ShardId(shard),
            connection: Key {
                index: 0,
                generation: 0,
            },
            joined_at: Timestamp::from_nanos(at),
        }
    }

    #[test]
    fn the_newer_of_two_holds_whichever_is_heard_of_first() {
        let home: Name = "home".parse().unwrap();
        let (old, new, same) = (place(1, 5), place(0, 6), place(1, 6));
        for [first, second] in [[old, new], [new, old]] {
            let servers = QuicServers::default();
            assert_eq!(servers.join(home.clone(), first), None);
            assert_eq!(servers.join(home.clone(), second), Some(old));
            assert_eq!(servers.find(&home), Some(new));
            servers.leave(&home, old);
            assert_eq!(servers.find(&home), Some(new));
        }
        // At the same moment, all shards take the same one.
        for [first, second] in [[new, same], [same, new]] {
            let servers = QuicServers::default();
            assert_eq!(servers.join(home.clone(), first), None);
            assert_eq!(servers.join(home.clone(), second), Some(new));
            assert_eq!(servers.find(&home), Some(same));
            servers.leave(&home, same);
            assert_eq!(servers.find(&home), None);
        }
    }
}
