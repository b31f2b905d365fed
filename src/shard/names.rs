//! What names led to lately, so that a busy one is not asked for at each dial.
//!
//! The system's resolver does not say for how long an answer holds, so it is kept for a
//! short time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ahash::RandomState;

use super::control::Envelope;
use super::world::World;
use crate::runtime::dial::connect_first;
use crate::runtime::resolver::{Asker, TooManyNames};
use crate::runtime::stream::Stream;
use crate::time::Timestamp;

/// How long an answer is kept.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(30);

/// How long it is known that there is none: as long as a client takes to try again.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(2);

/// Names of one shard that are remembered.
const NAMES_MAX: usize = 4096;

/// Why there are no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nobody was asked.
    #[error(transparent)]
    TooMany(#[from] TooManyNames),
    /// Whatever `getaddrinfo(3)` says.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// An error, to be told again.
type Failure = (io::ErrorKind, Rc<str>);

/// One shard's names.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<Rc<str>, Known, RandomState>,
    /// In the order in which they were learnt; a name that was learnt again is there
    /// again.
    learnt: VecDeque<(Timestamp, Rc<str>)>,
}

#[derive(Debug)]
struct Known {
    answer: Result<Vec<IpAddr>, Failure>,
    learnt_at: Timestamp,
}

impl Names {
    /// What is known of a name; `None` when it has to be asked for.
    #[must_use]
    pub fn find(&self, name: &str, now: Timestamp) -> Option<io::Result<Vec<IpAddr>>> {
        let known = self.known.get(name)?;
        let age_max = match known.answer {
            Ok(_) => ANSWER_AGE_MAX,
            Err(_) => FAILURE_AGE_MAX,
        };
        let answer = || match &known.answer {
            Ok(addresses) => Ok(addresses.clone()),
            Err((kind, text)) => Err(io::Error::new(*kind, text.to_string())),
        };
        (now.since(known.learnt_at) < age_max).then(answer)
    }

    /// Has a name be asked for again.
    pub fn doubt(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// Remembers what asking came to.
    pub fn learn(&mut self, name: &str, answer: &io::Result<Vec<IpAddr>>, now: Timestamp) {
        self.forget(now);
        let name: Rc<str> = name.into();
        let known = Known {
            answer: match answer {
                Ok(addresses) => Ok(addresses.clone()),
                Err(error) => Err((error.kind(), error.to_string().into())),
            },
            learnt_at: now,
        };
        self.known.insert(Rc::clone(&name), known);
        self.learnt.push_back((now, name));
    }

    /// Makes room: what is too old goes, and the oldest where there are too many.
    fn forget(&mut self, now: Timestamp) {
        while let Some((learnt_at, name)) = self.learnt.front() {
            let is_old = now.since(*learnt_at) >= ANSWER_AGE_MAX;
            if !is_old && self.learnt.len() < NAMES_MAX {
                return;
            }
            // Unless it was learnt again.
            if self
                .known
                .get(name)
                .is_some_and(|known| known.learnt_at == *learnt_at)
            {
                self.known.remove(name);
            }
            self.learnt.pop_front();
        }
    }
}

impl<C: Copy, M: Send + 'static> World<C, M> {
    /// The addresses of a name, without holding up the shard.
    ///
    /// # Errors
    ///
    /// Whatever `getaddrinfo(3)` says; or that too many names wait.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let resolved = self.resolve_for(None, host, port).await;
        resolved.map_err(|error| match error {
            ResolveError::TooMany(error) => error.into(),
            ResolveError::Failed(error) => error,
        })
    }

    /// The same for `asker`, which may not have us resolve as many as it likes.
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`], or that too many of its names wait.
    pub async fn resolve_for(
        &self,
        asker: Option<Asker>,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let known = self.names.borrow().find(host, self.reactor.now());
        let addresses = match known {
            Some(known) => known?,
            None => {
                // That nobody was asked says nothing of the name.
                let asked = self.ask_resolver(asker, host).await?;
                let mut names = self.names.borrow_mut();
                names.learn(host, &asked, self.reactor.now());
                asked?
            }
        };
        let with_port = |address: IpAddr| SocketAddr::new(address, port);
        Ok(addresses.into_iter().map(with_port).collect())
    }

    /// Connects to the first of a name's addresses that lets us, at most until `until`.
    /// A name that none of them answers for may have moved, and is asked for again.
    ///
    /// # Errors
    ///
    /// As [`connect_first`].
    pub async fn connect(
        &self,
        name: Option<&str>,
        addresses: &[SocketAddr],
        until: Timestamp,
    ) -> io::Result<Stream> {
        let connected = connect_first(&self.reactor, addresses, until).await;
        if let (Err(_), Some(name)) = (&connected, name) {
            self.names.borrow_mut().doubt(name);
        }
        connected
    }

    async fn ask_resolver(
        &self,
        asker: Option<Asker>,
        host: &str,
    ) -> Result<io::Result<Vec<IpAddr>>, TooManyNames> {
        let Some(resolver) = &self.resolver else {
            return Ok(Err(io::ErrorKind::Unsupported.into()));
        };
        let question = self.questions.open();
        let id = question.id();
        let home = self.shards[usize::from(self.shard.0)].clone();
        let answer = Box::new(move |answer| {
            // A shard that has ended needs no answer.
            let _ = home.send(Envelope::Resolved {
                question: id,
                answer,
            });
        });
        resolver.resolve(host, 0, asker, answer)?;
        let answer = question.answer().await;
        Ok(answer.map(|addresses| addresses.iter().map(SocketAddr::ip).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn found(names: &Names, name: &str, seconds: u64) -> Option<Result<usize, io::ErrorKind>> {
        let found = names.find(name, at(seconds))?;
        Some(
            found
                .map(|addresses| addresses.len())
                .map_err(|error| error.kind()),
        )
    }

    #[test]
    fn answers_hold_for_a_while_and_failures_for_a_moment() {
        let mut names = Names::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        let dead = || Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
        assert_eq!(found(&names, "a", 0), None);
        names.learn("a", &Ok(vec![address]), at(0));
        names.learn("b", &dead(), at(0));
        assert_eq!(found(&names, "a", 29), Some(Ok(1)));
        assert_eq!(found(&names, "a", 30), None);
        assert_eq!(found(&names, "b", 1), Some(Err(io::ErrorKind::NotFound)));
        let told = names
            .find("b", at(1))
            .expect("known")
            .expect_err("a failure");
        assert_eq!(told.to_string(), "no such name");
        assert_eq!(found(&names, "b", 2), None);
        // What was learnt last holds.
        names.learn("a", &dead(), at(10));
        names.learn("a", &Ok(vec![address; 2]), at(20));
        names.learn("c", &Ok(vec![address]), at(31));
        assert_eq!(found(&names, "a", 31), Some(Ok(2)));
        assert_eq!(names.known.len(), 2);
        names.doubt("a");
        assert_eq!(found(&names, "a", 31), None);
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        let mut names = Names::default();
        for number in 0..3 * NAMES_MAX {
            names.learn(&number.to_string(), &Ok(Vec::new()), at(0));
            assert!(names.known.len() <= NAMES_MAX && names.learnt.len() <= NAMES_MAX);
        }
        assert_eq!(found(&names, "0", 0), None);
        let last = (3 * NAMES_MAX - 1).to_string();
        assert_eq!(found(&names, &last, 0), Some(Ok(0)));
        // One name again and again takes no other's room for long.
        for _ in 0..NAMES_MAX {
            names.learn("same", &Ok(Vec::new()), at(0));
        }
        assert_eq!(names.known.len(), 1);
    }
}
