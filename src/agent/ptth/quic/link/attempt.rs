//! One attempt: the relay is dialled, and told who we are.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use rustix::io::Errno;

use super::addresses::silent_attempts_max;
use super::{Link, News};
use crate::agent::leg::CONNECT_TIMEOUT;
use crate::agent::ptth::asking::AskError;
use crate::agent::ptth::quic::relay::JoinError;
use crate::agent::target::Host;
use crate::protocol::ptth_quic::{Answer, CloseCode};
use crate::quic::connection::ConnectionKey;
use crate::quic::driver::QuicEvent;
use crate::runtime::clock;
use crate::runtime::flag::{Either, either};
use crate::runtime::udp_group::connect_udp;
use crate::shard::streams::{NoMessage, QuicStream};
use crate::time::Timestamp;

/// How long the relay's name may take: longer than the system's resolver waits for one server
/// before it asks the next.
const RESOLVE_TIMEOUT: Duration = CONNECT_TIMEOUT;
/// How long one may take in all, once it is dialled: two round trips, of paths that are up to 3 s
/// long.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts in a row to which no datagram came, until UDP counts as blocked; more where the
/// relay has more addresses.
const SILENT_ATTEMPTS: usize = 2;
/// How long the relay may take to show that it is there by HTTPS.
const HTTPS_TIMEOUT: Duration = Duration::from_secs(3);

impl Link {
    /// Dials until the relay has let us in. Nothing may come from it for so long.
    pub(super) async fn join(&self, silence_max: Duration) -> Result<ConnectionKey, JoinError> {
        let (connection, to) = self.dial(&self.resolve().await?)?;
        let reactor = &self.world.reactor;
        let since = reactor.now();
        let attempt = Attempt {
            link: self,
            connection,
            is_over: Cell::new(false),
        };
        let mut joining = pin!(self.introduce(connection));
        let until = since + silence_max;
        let joined = match reactor.deadline(until, joining.as_mut()).await {
            Some(joined) => joined,
            None if self
                .health_of(connection)
                .is_some_and(|one| one.heard_at.is_some()) =>
            {
                let joined = reactor.deadline(since + JOIN_TIMEOUT, joining).await;
                joined.unwrap_or(Err(JoinError::TimedOut))
            }
            None => Err(JoinError::Silent),
        };
        let mut addresses = self.addresses.borrow_mut();
        if let Err(error) = joined {
            addresses.handle_failure(to);
            return Err(error);
        }
        addresses.handle_success(to);
        attempt.is_over.set(true);
        Ok(connection)
    }

    /// How many attempts in a row without a datagram show that UDP is blocked.
    pub(super) fn silent_attempts_max(&self) -> usize {
        silent_attempts_max(self.found.get(), SILENT_ATTEMPTS)
    }

    /// Where the relay is. A name takes its own time, which says nothing of the relay.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, JoinError> {
        let address = &self.relay.url.address;
        let name = match &address.host {
            Host::Address(ip) => return Ok(vec![SocketAddr::new(*ip, address.port)]),
            Host::Name(name) => name,
        };
        let reactor = &self.world.reactor;
        let resolving = self.world.resolve(name, address.port);
        let resolved = reactor.deadline(reactor.now() + RESOLVE_TIMEOUT, resolving);
        let host = || name.clone();
        let resolved = resolved.await.ok_or_else(|| JoinError::ResolverSilent {
            host: host(),
            timeout: RESOLVE_TIMEOUT,
        })?;
        resolved.map_err(|source| JoinError::Resolve {
            host: host(),
            source,
        })
    }

    fn dial(&self, found: &[SocketAddr]) -> Result<(ConnectionKey, SocketAddr), JoinError> {
        self.found.set(found.len());
        let mut result = Err(JoinError::TimedOut);
        for to in self.addresses.borrow_mut().next(found) {
            let config = self.relay.config().ok_or(JoinError::NoWay(to))?;
            let dialled = self.world.streams.with_driver(|driver| {
                let port = driver.port_of_family(to)?;
                driver
                    .connect(port, config, to, &self.relay.name, clock::now())
                    .ok()
            });
            match dialled {
                Some(connection) => {
                    self.dialled.set(Some(to));
                    self.news.borrow_mut().insert(connection, News::default());
                    return Ok((connection, to));
                }
                None => result = Err(JoinError::NoWay(to)),
            }
        }
        result
    }

    /// Says who we are.
    async fn introduce(&self, connection: ConnectionKey) -> Result<(), JoinError> {
        if let QuicEvent::Lost(_, why) = self.next(connection).await {
            return Err(JoinError::Connection(why));
        }
        let stream = QuicStream::open(&self.world, connection).ok_or(JoinError::NoStream)?;
        stream.say(|words| self.relay.hello.encode(words)).await;
        let question = self.relay.hello.question();
        let decode = |bytes: &[u8]| Answer::decode(bytes, question);
        // An answer that has come goes before the end of its connection.
        let answer = match either(stream.read_message(decode), self.lost(connection)).await {
            Either::First(Err(NoMessage::Lost)) => Err(self.lost(connection).await),
            Either::First(answer) => Ok(answer?),
            Either::Second(why) => Err(why),
        };
        let answer = answer.map_err(JoinError::Connection)?;
        answer.verdict().map_err(JoinError::Refused)?;
        stream.keep();
        Ok(())
    }

    /// Finds out for operators whether the relay is still there where HTTPS alone leads to it.
    pub(super) async fn look_by_https(&self) {
        if self.https_health.is_some() {
            // Noted as it is found.
            let _: Result<JoinError, JoinError> = self.is_there_otherwise().await;
        }
    }

    /// Whether the relay is there, though nothing comes from it over UDP; why nothing does.
    pub(super) async fn is_there_otherwise(&self) -> Result<JoinError, JoinError> {
        // Known by now, or for a while still: HTTPS has its time for itself.
        self.resolve().await?;
        // Who rejects datagrams says so to sockets that speak with it alone.
        let witness = self.dialled.get().and_then(|to| connect_udp(to).ok());
        if let Some(witness) = &witness {
            let _ = witness.send(&[0]);
        }
        let asked_at = self.world.reactor.now();
        let greeting = self.relay.https.greet(&self.world);
        let greeted = self
            .world
            .reactor
            .deadline(asked_at + HTTPS_TIMEOUT, greeting);
        let greeted = greeted
            .await
            .unwrap_or(Err(AskError::Silent(HTTPS_TIMEOUT)));
        self.note_by_https(asked_at, &greeted);
        let is_rejected =
            witness.and_then(|witness| witness.take_error()) == Some(Errno::CONNREFUSED);
        match greeted {
            // A firewall may have said so in its host's name.
            Ok(()) if is_rejected => Ok(JoinError::Closed),
            Ok(()) => Ok(JoinError::Silent),
            Err(_) if is_rejected => Err(JoinError::Closed),
            Err(error) => Err(JoinError::Away(Box::new(error))),
        }
    }

    fn note_by_https(&self, asked_at: Timestamp, greeted: &Result<(), AskError>) {
        let Some(health) = &self.https_health else {
            return;
        };
        match greeted {
            Ok(()) => health.handle_success(asked_at),
            Err(error) => health.handle_failure(clock::now(), error.trouble(), error),
        };
    }
}

/// An attempt that has not come to its end: dropped, its connection is closed.
struct Attempt<'a> {
    link: &'a Link,
    connection: ConnectionKey,
    is_over: Cell<bool>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_over.get() {
            self.link.drop_connection(self.connection, CloseCode::Clean);
        }
    }
}
