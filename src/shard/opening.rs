//! What a connection opens with, on which listener, and who sees to it from there.
//!
//! ```text
//! accepted ── whose it is ── TLS? ── what is spoken ──┬── a request of JET's: rendezvous.rs
//!                                                     ├── HTTP: http_connection.rs
//!                                                     └── jProxy: jproxy.rs
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{Level, enabled};

use super::http_connection::{Client, Requests};
use super::jproxy::{TunnelNewcomer, no_acceptance};
use super::peer_address::PeerAddress;
use super::per_address::CountedAddress;
use super::rendezvous::{HandshakePermit, RelayService};
use crate::config::Pinned;
use crate::metrics::ACCESS_LOG;
use crate::protocol::jet::Transport;
use crate::runtime::clock;
use crate::runtime::stream::Stream;
use crate::session::arrival::Arrival;
use crate::session::handshake::{Failure, Opening, read_opening};
use crate::session::link::Link;
use crate::session::proxied::read_proxy_header;
use crate::session::refused::Refused;
use crate::time::Timestamp;

impl RelayService {
    pub(super) async fn handshake(
        self: Rc<Self>,
        stream: Stream,
        only: Option<Pinned>,
        permit: HandshakePermit,
    ) {
        let reactor = &self.world.reactor;
        let since = clock::now();
        let deadline = since + self.settings().handshake_timeout;
        // Asked now: of a peer that has reset the kernel gives no address.
        let mut peer = match self.names_peers() {
            true => PeerAddress::from(stream.socket().peer_address()),
            false => PeerAddress::UNKNOWN,
        };
        let mut link = Link::new(stream);
        let mut source = None;
        if is_among(|| link.peer_address(), &self.settings().proxy_protocol_from) {
            source = match read_proxy_header(reactor, &mut link, deadline).await {
                Ok(source) => source,
                Err(refused) => return self.count_refused(peer, refused),
            };
        }
        if source.is_some() {
            peer = PeerAddress::from(source);
        }
        // Who passes on what a stranger says is no forwarder: the stranger would be one.
        let address = || source.or_else(|| link.peer_address());
        let is_forwarder = is_among(address, &self.settings().forwarded_for_from);
        let mut counted = None;
        if !is_forwarder && !self.count_for(peer, &mut counted) {
            return self.count_refused(peer, Refused::TooManyFromAddress);
        }
        let opening = read_opening(reactor, &mut link, &self.read_buffer, deadline).await;
        let opening = match opening {
            Ok(Opening::Tls(_)) if only.is_some_and(|only| !only.is_tls()) => {
                Err(Failure::silent(Refused::OtherListener))
            }
            // In a box of its own: what it needs is no part of every handshake.
            Ok(Opening::Tls(first)) => Box::pin(self.open_tls(&mut link, first, deadline)).await,
            opening => opening,
        };
        let opening = match opening {
            Ok(opening) => self
                .check_listener(&opening, link.is_tls(), only)
                .map(|()| opening)
                .map_err(Failure::silent),
            // What is no good JET is told so where JET is served.
            Err(Failure { reply: Some(_), .. })
                if only.is_some_and(|only| only != jet_over(link.is_tls())) =>
            {
                Err(Failure::silent(Refused::OtherListener))
            }
            failed => failed,
        };
        match opening {
            Ok(Opening::Http(received)) => {
                let client = Client {
                    peer,
                    is_forwarder,
                    counted,
                };
                let requests = Requests {
                    link,
                    received,
                    since,
                    permit,
                };
                return Box::pin(self.serve_connection(requests, client)).await;
            }
            Ok(Opening::Jet(_)) if is_forwarder && !self.count_for(peer, &mut counted) => {
                self.count_refused(peer, Refused::TooManyFromAddress);
            }
            Ok(Opening::Jet(jet)) => {
                let (stream, tls, opened) = link.into_parts();
                let mut prefix = jet.prefix;
                prefix.extend_from_slice(&opened);
                let arrival = Arrival::packet(jet.request, prefix, tls, jet.was_full);
                self.arrive(stream, arrival, peer, since).await;
            }
            Ok(Opening::Jproxy(_)) if is_forwarder && !self.count_for(peer, &mut counted) => {
                self.count_refused(peer, Refused::TooManyFromAddress);
            }
            Ok(Opening::Jproxy(received)) => {
                let newcomer = TunnelNewcomer {
                    link,
                    received,
                    peer,
                    counted,
                    dialect: only.and_then(Pinned::dialect),
                    since,
                    deadline,
                };
                Box::pin(self.serve_tunnel(newcomer)).await;
            }
            Ok(Opening::Tls(_)) => unreachable!("there is no TLS within TLS"),
            Err(Failure { refused, .. })
                if only.is_some_and(|only| only.is_jproxy_over(link.is_tls()))
                    && matches!(refused, Refused::BadSignature | Refused::OtherListener) =>
            {
                self.count_refused(peer, refused);
                link.refuse(reactor, &no_acceptance()).await;
            }
            Err(Failure { refused, reply }) => {
                self.count_refused(peer, refused);
                match reply {
                    Some(reply) => link.refuse(reactor, reply.as_bytes()).await,
                    None => link.give_up(reactor).await,
                }
            }
        }
        drop(permit);
    }

    /// Whether it matters who the peers are: to a limit, in the access log, or in the
    /// line about one that was refused. If not, the system call that asks is saved.
    fn names_peers(&self) -> bool {
        self.settings().connections_per_address_max > 0
            || enabled!(target: ACCESS_LOG, Level::INFO)
            || enabled!(Level::DEBUG)
    }

    /// Whether a peer's address may have another connection.
    pub(super) fn admits(&self, peer: PeerAddress) -> bool {
        let max = self.settings().connections_per_address_max;
        max == 0 || self.connections_per_address.count(peer) < max
    }

    /// Has a connection count for this peer, and no more for another one, unless the peer has
    /// as many as it may.
    pub(super) fn count_for(
        &self,
        peer: PeerAddress,
        counted: &mut Option<CountedAddress>,
    ) -> bool {
        *counted = None;
        let admits = self.admits(peer);
        if admits {
            *counted = Some(self.connections_per_address.enter(peer));
        }
        admits
    }

    /// Whether what a connection opens with is served on its listener, which may be for
    /// `only` one thing.
    fn check_listener(
        &self,
        opening: &Opening,
        is_tls: bool,
        only: Option<Pinned>,
    ) -> Result<(), Refused> {
        let settings = self.settings();
        if settings.tls_required && !is_tls {
            return Err(Refused::TlsRequired);
        }
        let pinned = match (opening, is_tls) {
            (Opening::Jproxy(_), is_tls) => {
                // Without TLS it is for those alone who say so.
                let is_served = only.map_or(is_tls, |only| only.is_jproxy_over(is_tls));
                let is_served = is_served && settings.tunnels.is_served;
                return is_served.then_some(()).ok_or(Refused::OtherListener);
            }
            (Opening::Http(_), false) => Pinned::Jet(Transport::Ws),
            (Opening::Http(_), true) => Pinned::Jet(Transport::Wss),
            (_, is_tls) => jet_over(is_tls),
        };
        match only {
            Some(only) if only != pinned => Err(Refused::OtherListener),
            _ => Ok(()),
        }
    }

    /// Has TLS begin on a connection, and reads what it opens with inside.
    async fn open_tls(
        &self,
        link: &mut Link,
        first: Vec<u8>,
        deadline: Timestamp,
    ) -> Result<Opening, Failure> {
        let reactor = &self.world.reactor;
        let config = Arc::clone(&self.settings().tls);
        link.begin_tls(reactor, config, first, deadline)
            .await
            .map_err(Failure::silent)?;
        read_opening(reactor, link, &self.read_buffer, deadline).await
    }
}

/// What a packet of JET is for.
const fn jet_over(is_tls: bool) -> Pinned {
    Pinned::Jet(match is_tls {
        true => Transport::Tls,
        false => Transport::Tcp,
    })
}

/// Whether an address, which is asked for only then, is in one of these networks.
fn is_among(address: impl FnOnce() -> Option<SocketAddr>, networks: &[IpNet]) -> bool {
    !networks.is_empty()
        && address().is_some_and(|address| {
            let ip = address.ip().to_canonical();
            networks.iter().any(|network| network.contains(&ip))
        })
}
