//! Users' sessions and dials, each user's counted by one shard for all of them.
//!
//! A session is counted before the shard that asks knows it, and taken back when that shard is
//! done with it, be it before the answer has come: both messages go the same way. Nobody is
//! asked for a user without limits.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use ahash::RandomState;

use super::rendezvous::Message;
use super::sessions::Origin;
use super::world::World;
use crate::access::Rates;
use crate::association::key::ShardId;
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// One session, by the shard that dials for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub shard: ShardId,
    pub number: u64,
}

/// A session that is to begin, within what its user may; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    pub user: Arc<str>,
    pub session: SessionId,
    pub sessions_max: u32,
    pub per_minute_max: u32,
}

/// What one shard counts for all.
#[derive(Debug, Default)]
pub(super) struct UserSessions {
    running: HashMap<Arc<str>, HashSet<SessionId, RandomState>, RandomState>,
    dials: Rates<Arc<str>>,
}

impl UserSessions {
    /// Counts a session, if its user may have another.
    pub(super) fn begin(&mut self, dial: Dial, now: Timestamp) -> Result<(), Refused> {
        let Dial {
            user,
            session,
            sessions_max,
            per_minute_max,
        } = dial;
        if sessions_max > 0 && self.count(&user) >= sessions_max as usize {
            return Err(Refused::TooManyOfUser);
        }
        if per_minute_max > 0 {
            let taken = self.dials.take(Arc::clone(&user), per_minute_max, now);
            taken.map_err(|_| Refused::TooManyDials)?;
        }
        self.running.entry(user).or_default().insert(session);
        Ok(())
    }

    /// Takes a session back, which may never have been counted.
    pub(super) fn end(&mut self, user: &str, session: SessionId) {
        if let Some(running) = self.running.get_mut(user) {
            running.remove(&session);
            if running.is_empty() {
                self.running.remove(user);
            }
        }
    }

    /// Forgets what users dialled who are gone.
    pub(super) fn forget(&mut self, is_known: impl Fn(&str) -> bool) {
        self.dials.keep(|user| is_known(user));
    }

    fn count(&self, user: &str) -> usize {
        self.running.get(user).map_or(0, HashSet::len)
    }
}

/// One of a user's sessions, dialled or being dialled, until it is dropped.
#[derive(Debug)]
pub struct UserSession {
    user: Arc<str>,
    counted: Option<Counted>,
}

#[derive(Debug)]
struct Counted {
    world: Rc<World<Origin, Message>>,
    by: ShardId,
    session: SessionId,
}

impl UserSession {
    /// One of a user without limits.
    pub(super) const fn uncounted(user: Arc<str>) -> Self {
        Self {
            user,
            counted: None,
        }
    }

    /// One that the shard `by` is asked to count, or was.
    pub(super) const fn counted(
        user: Arc<str>,
        world: Rc<World<Origin, Message>>,
        by: ShardId,
        session: SessionId,
    ) -> Self {
        let counted = Some(Counted { world, by, session });
        Self { user, counted }
    }

    /// Whose it is.
    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

impl Drop for UserSession {
    fn drop(&mut self) {
        if let Some(Counted { world, by, session }) = self.counted.take() {
            let user = Arc::clone(&self.user);
            // A shard that has ended counts no more.
            let _ = world.send(by, Message::SessionOver { user, session });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_sessions_whichever_shard_dials() {
        let mut sessions = UserSessions::default();
        let now = Timestamp::default();
        let session = |shard, number| SessionId {
            shard: ShardId(shard),
            number,
        };
        let dial = |user: &str, session, sessions_max| Dial {
            user: user.into(),
            session,
            sessions_max,
            per_minute_max: 0,
        };
        let first = session(0, 1);
        assert_eq!(sessions.begin(dial("alice", first, 2), now), Ok(()));
        assert_eq!(sessions.begin(dial("alice", session(1, 1), 2), now), Ok(()));
        let refused = Err(Refused::TooManyOfUser);
        assert_eq!(
            sessions.begin(dial("alice", session(0, 2), 2), now),
            refused
        );
        assert_eq!(sessions.begin(dial("bob", session(0, 3), 2), now), Ok(()));
        // One that was refused is taken back as well, and is nobody else's.
        sessions.end("alice", session(0, 2));
        sessions.end("carol", first);
        assert_eq!(sessions.count("alice"), 2);
        sessions.end("alice", first);
        assert_eq!(sessions.begin(dial("alice", session(1, 2), 2), now), Ok(()));
        for number in [1, 2] {
            sessions.end("alice", session(1, number));
        }
        sessions.end("bob", session(0, 3));
        assert!(sessions.running.is_empty());
    }

    #[test]
    fn a_user_dials_so_many_in_a_minute() {
        let mut sessions = UserSessions::default();
        let mut dial = |number| {
            let session = SessionId {
                shard: ShardId(0),
                number,
            };
            let dial = Dial {
                user: "alice".into(),
                session,
                sessions_max: 0,
                per_minute_max: 2,
            };
            sessions.begin(dial, Timestamp::default())
        };
        assert_eq!([dial(0), dial(1)], [Ok(()); 2]);
        assert_eq!(dial(2), Err(Refused::TooManyDials));
        assert_eq!(sessions.count("alice"), 2);
    }
}
