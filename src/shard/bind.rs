//! Visitors who await somebody: SOCKS5's BIND, RFC 1928 §4 and §6.
//!
//! ```text
//! request ── a socket listens ── reply ──┬── whoever is awaited ── reply ── pair
//!                                        ├── others: closed, and the wait goes on
//!                                        └── the deadline, a drain: reply; the visitor's end
//! ```
//!
//! Whoever may be dialled may come: the request's address, or those to which its name leads,
//! by the same rules. The port that it comes from is its own choice.
//!
//! Left out: a choice of the port to listen at, which is the kernel's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use tracing::warn;

use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::tally::Counted;
use super::user_sessions::{Beginning, UserSession};
use super::users::May;
use super::websocks::{DIAL_TIMEOUT, Guest, NotConnected};
use crate::access::Awaiting;
use crate::access::egress::Candidate;
use crate::protocol::socks5::{Destination, Host, Request};
use crate::runtime::executor::yield_now;
use crate::runtime::flag::{Either, either};
use crate::runtime::peer_listener::PeerListener;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;

/// What there is while somebody is awaited.
struct Wait {
    listener: PeerListener,
    awaited: Awaited,
    session: UserSession,
    _counted: Counted,
}

/// Who may come.
#[derive(Debug, PartialEq, Eq)]
enum Awaited {
    Anybody,
    /// IPv4 as such.
    These(Vec<IpAddr>),
}

impl RelayService {
    /// Listens for whom a visitor awaits, and joins the two.
    pub(super) async fn serve_bind(&self, mut guest: Guest, request: &Request) {
        let opening = self.open_wait(&guest.user, &request.destination);
        let opened = self.draining.or_raised(opening).await;
        let wait = match opened.unwrap_or(Err(Refused::Draining.into())) {
            Ok(wait) => wait,
            Err(not) => return self.refuse_guest(guest, request, not).await,
        };
        let told = self.tell_guest(&mut guest, wait.listener.address()).await;
        if told.is_err() {
            return;
        }
        let come = self
            .await_peer(&mut guest, &wait, &request.destination)
            .await;
        // Nobody else may come, from now on.
        let session = wait.end();
        match come {
            Ok((origin, from)) => {
                session.end_bind();
                self.join_guest(guest, request, from, (origin, session))
                    .await;
            }
            Err(not) => {
                drop(session);
                self.refuse_guest(guest, request, not).await;
            }
        }
    }

    /// A socket that listens for a user's visitor, if it may have one.
    async fn open_wait(
        &self,
        user: &Arc<str>,
        destination: &Destination,
    ) -> Result<Wait, NotConnected> {
        let settings = self.settings();
        let may = self.allowance(&settings, user)?;
        let binds_max = may.binds_max();
        if settings.awaiting.addresses.is_empty() || binds_max == 0 {
            return Err(Refused::CommandNotSupported.into());
        }
        if self.binds.count() >= settings.binds_max {
            return Err(Refused::TooManyBinds.into());
        }
        let counted = self.binds.enter();
        let beginning = Beginning::Bind { binds_max };
        let session = self.begin_dial(user, &may, beginning).await?;
        let (awaited, ip) = self
            .awaited(user, &may, destination, &settings.awaiting)
            .await?;
        let listener = PeerListener::bind(Rc::clone(&self.world.reactor), ip);
        let listener = listener.map_err(|error| self.handle_fault(ip, &error))?;
        Ok(Wait {
            listener,
            awaited,
            session,
            _counted: counted,
        })
    }

    /// Who may come to a user's visitor, and to which of our addresses.
    async fn awaited(
        &self,
        user: &Arc<str>,
        may: &May<'_>,
        destination: &Destination,
        settings: &Awaiting,
    ) -> Result<(Awaited, IpAddr), NotConnected> {
        let (awaited, ours) = if destination.is_unspecified() {
            if !settings.anybody {
                return Err(Refused::EgressDenied.into());
            }
            let ours = match &destination.host {
                Host::Address(address) => settings.of_family(*address),
                Host::Name(_) => settings.addresses.first().copied(),
            };
            (Awaited::Anybody, ours)
        } else {
            let until = self.world.reactor.now() + DIAL_TIMEOUT;
            let addresses = self.allowed_addresses(user, may, destination, until);
            let addresses = addresses.await?;
            let ips = addresses.iter().map(|address| address.ip().to_canonical());
            let ips: Vec<IpAddr> = ips.collect();
            let ours = ips.iter().find_map(|ip| settings.of_family(*ip));
            (Awaited::These(ips), ours)
        };
        let ours = ours.ok_or(Refused::AddressTypeNotSupported)?;
        Ok((awaited, ours))
    }

    /// Waits until whom a visitor awaits has come, and as long as the visitor waits.
    async fn await_peer(
        &self,
        guest: &mut Guest,
        wait: &Wait,
        destination: &Destination,
    ) -> Result<(Stream, SocketAddr), NotConnected> {
        let Guest { stream, user, .. } = guest;
        let until = self.world.reactor.now() + self.settings().bind_timeout;
        let coming = self.next_awaited(user, wait, destination);
        let waiting = either(stream.departure(), coming);
        let waiting = self.world.reactor.deadline(until, waiting);
        match self.draining.or_raised(waiting).await {
            Some(Some(Either::Second(come))) => {
                let ip = wait.listener.address().ip();
                come.map_err(|error| self.handle_fault(ip, &error).into())
            }
            Some(Some(Either::First(departure))) => Err(Refused::from(departure).into()),
            Some(None) => Err(Refused::NobodyCame.into()),
            None => Err(Refused::Draining.into()),
        }
    }

    /// Tells operators that nobody can be awaited, which is no visitor's doing.
    fn handle_fault(&self, ip: IpAddr, error: &io::Error) -> Refused {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                self.world.note_no_descriptor();
                Refused::NoDescriptor
            }
            _ => {
                let shard = self.world.shard.0;
                warn!(shard, %ip, %error, "nobody can be awaited");
                Refused::ListenFailed
            }
        }
    }

    /// The next connection of somebody who is awaited. Others are closed.
    async fn next_awaited(
        &self,
        user: &str,
        wait: &Wait,
        destination: &Destination,
    ) -> io::Result<(Stream, SocketAddr)> {
        loop {
            let (stream, from) = wait.listener.accept().await?;
            match self.judge_peer(user, &wait.awaited, destination, from.ip()) {
                Ok(()) => return Ok((stream, from)),
                Err(refused) => self.count_refused(PeerAddress::from(Some(from)), refused),
            }
            drop(stream);
            // However many come, others have their turn.
            yield_now().await;
        }
    }

    /// Whether somebody may come to a user's visitor, by the settings that there are now.
    fn judge_peer(
        &self,
        user: &str,
        awaited: &Awaited,
        destination: &Destination,
        address: IpAddr,
    ) -> Result<(), Refused> {
        if !awaited.contains(address) {
            return Err(Refused::NotAwaited);
        }
        let candidate = Candidate {
            name: destination.name(),
            address,
            port: destination.port,
        };
        match self.allowance(&self.settings(), user)?.dial(&candidate) {
            true => Ok(()),
            false => Err(Refused::EgressDenied),
        }
    }
}

impl Wait {
    /// Listens no more.
    fn end(self) -> UserSession {
        self.session
    }
}

impl Awaited {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Anybody => true,
            Self::These(ips) => ips.contains(&address.to_canonical()),
        }
    }
}
