//! Users' sessions and dials, and those of their visitors who await somebody, each user's
//! counted by one shard for all of them.
//!
//! A session is counted before the shard that asks knows it, and taken back when that shard is
//! done with it, be it before the answer has come: both messages go the same way. Nobody is
//! asked for a user without limits, but for its binds.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
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
    pub beginning: Beginning,
}

/// With what a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Somebody is dialled.
    Dial,
    /// Somebody is awaited, as so many visitors of the user may at once.
    Bind { binds_max: u32 },
}

/// Sessions by whose they are; nobody has an empty set.
#[derive(Debug)]
pub(super) struct ByHolder<H>(HashMap<H, HashSet<SessionId, RandomState>, RandomState>);

/// What one shard counts for all.
#[derive(Debug, Default)]
pub(super) struct UserSessions {
    running: ByHolder<Arc<str>>,
    /// Those of them for which somebody is awaited.
    awaiting: ByHolder<Arc<str>>,
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
            beginning,
        } = dial;
        if sessions_max > 0 && self.running.count(&*user) >= sessions_max as usize {
            return Err(Refused::TooManyOfUser);
        }
        if let Beginning::Bind { binds_max } = beginning
            && self.awaiting.count(&*user) >= binds_max as usize
        {
            return Err(Refused::TooManyBinds);
        }
        if per_minute_max > 0 {
            let taken = self.dials.take(Arc::clone(&user), per_minute_max, now);
            taken.map_err(|_| Refused::TooManyDials)?;
        }
        if let Beginning::Bind { .. } = beginning {
            self.awaiting.insert(Arc::clone(&user), session);
        }
        self.running.insert(user, session);
        Ok(())
    }

    /// Nobody is awaited for a session any more, which goes on.
    pub(super) fn end_bind(&mut self, user: &str, session: SessionId) {
        self.awaiting.remove(user, session);
    }

    /// Takes a session back, which may never have been counted.
    pub(super) fn end(&mut self, user: &str, session: SessionId) {
        self.running.remove(user, session);
        self.awaiting.remove(user, session);
    }

    /// Forgets what users dialled who are gone.
    pub(super) fn forget(&mut self, is_known: impl Fn(&str) -> bool) {
        self.dials.keep(|user| is_known(user));
    }
}

impl<H> Default for ByHolder<H> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<H: Eq + Hash> ByHolder<H> {
    pub(super) fn insert(&mut self, holder: H, session: SessionId) {
        self.0.entry(holder).or_default().insert(session);
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, holder: &Q, session: SessionId)
    where
        H: Borrow<Q>,
    {
        if let Some(sessions) = self.0.get_mut(holder) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.0.remove(holder);
            }
        }
    }

    pub(super) fn count<Q: Eq + Hash + ?Sized>(&self, holder: &Q) -> usize
    where
        H: Borrow<Q>,
    {
        self.0.get(holder).map_or(0, HashSet::len)
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

    /// Whom it has awaited has come.
    pub(super) fn end_bind(&self) {
        if let Some(Counted { world, by, session }) = &self.counted {
            let (user, session) = (Arc::clone(&self.user), *session);
            // A shard that has ended counts no more.
            let _ = world.send(*by, Message::BindOver { user, session });
        }
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
            beginning: Beginning::Dial,
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
        assert_eq!(sessions.running.count("alice"), 2);
        sessions.end("alice", first);
        assert_eq!(sessions.begin(dial("alice", session(1, 2), 2), now), Ok(()));
        for number in [1, 2] {
            sessions.end("alice", session(1, number));
        }
        sessions.end("bob", session(0, 3));
        assert!(sessions.running.0.is_empty());
    }

    #[test]
    fn a_user_awaits_so_many_and_they_are_its_sessions() {
        let mut sessions = UserSessions::default();
        let session = |number| SessionId {
            shard: ShardId(0),
            number,
        };
        let begin = |sessions: &mut UserSessions, number, beginning| {
            let dial = Dial {
                user: "alice".into(),
                session: session(number),
                sessions_max: 3,
                per_minute_max: 0,
                beginning,
            };
            sessions.begin(dial, Timestamp::default())
        };
        let bind = Beginning::Bind { binds_max: 2 };
        assert_eq!(begin(&mut sessions, 1, bind), Ok(()));
        assert_eq!(begin(&mut sessions, 2, bind), Ok(()));
        assert_eq!(begin(&mut sessions, 3, bind), Err(Refused::TooManyBinds));
        // Whom one of them awaits has come, and it is a session still.
        sessions.end_bind("alice", session(1));
        assert_eq!(begin(&mut sessions, 3, bind), Ok(()));
        let refused = Err(Refused::TooManyOfUser);
        assert_eq!(begin(&mut sessions, 4, Beginning::Dial), refused);
        // One that ends awaits nobody.
        sessions.end("alice", session(2));
        assert_eq!(begin(&mut sessions, 4, bind), Ok(()));
        for number in [1, 3, 4] {
            sessions.end("alice", session(number));
        }
        assert!(sessions.running.0.is_empty() && sessions.awaiting.0.is_empty());
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
                beginning: Beginning::Dial,
            };
            sessions.begin(dial, Timestamp::default())
        };
        assert_eq!([dial(0), dial(1)], [Ok(()); 2]);
        assert_eq!(dial(2), Err(Refused::TooManyDials));
        assert_eq!(sessions.running.count("alice"), 2);
    }
}
