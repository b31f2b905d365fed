//! Visitors who asked for datagrams to be passed on: SOCKS5's UDP ASSOCIATE.
//!
//! ```text
//!            stream: frames of header and data            sockets
//! client  ──────────────────────────────────────>  judged by [egress]  ──>  anybody
//!         <──────────────────────────────────────  from whom it has sent to  <──
//! ```
//!
//! Nothing waits in either direction, but for a name: what does not fit now is dropped and
//! counted. A client that sends more than leaves is held up by its stream.
//!
//! Left out: fragments (RFC 1928 §7 lets them be dropped), errors of ICMP, which the header
//! has no words for, and who sends from where: both sockets are at any address.

pub(super) mod budget;
mod by_name;
mod destinations;
mod outlet;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tracing::debug;

use super::errand::one_word;
use super::rendezvous::RelayService;
use super::session_log::DatagramsEnded;
use super::tally::Counted;
use super::user_sessions::{Beginning, UserSession};
use super::websocks::Guest;
use crate::protocol::socks5::{Reply, Request};
use crate::relay::codec::Life;
use crate::runtime::executor::yield_now;
use crate::session::datagram_stream::{DatagramStream, Left};
use crate::session::refused::Refused;
use crate::time::Timestamp;
use outlet::Outlet;

/// How long a visit lasts on which nothing is passed on, if `session_idle_s` says no less.
const IDLE_MAX: Duration = Duration::from_secs(180);

/// One client, and its sockets.
#[derive(Debug)]
struct Visit {
    service: Rc<RelayService>,
    stream: DatagramStream,
    outlet: Outlet,
    /// When something was passed on last.
    passed_at: Timestamp,
    /// When the client is looked at next, which may have to be pinged.
    next_look: Timestamp,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The client's stream did.
    Finished,
    /// It broke, or what came on it was no datagram.
    Failed,
    /// It did not answer pings.
    TimedOut,
    /// Nothing was passed on, or it lasted, as long as it may.
    Expired,
    /// The relay stops.
    Drained,
}

impl RelayService {
    /// Passes datagrams on for a user's visitor, until it goes.
    pub(super) async fn serve_datagrams(self: &Rc<Self>, guest: Guest, request: &Request) {
        let reactor = &self.world.reactor;
        let (outlet, _of_user, _counted) = match self.open_outlet(&guest.user).await {
            Ok(opened) => opened,
            Err(refused) => return self.refuse_guest(guest, request, refused.into()).await,
        };
        let Guest {
            mut stream,
            user,
            peer,
            since,
            ..
        } = guest;
        let mut reply = Vec::new();
        let bound = outlet.local_address();
        let bound = bound.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
        Reply::succeeded(bound).encode(&mut reply);
        let until = reactor.now() + self.settings().handshake_timeout;
        let sent = reactor.deadline(until, stream.send_all(&reply)).await;
        if !matches!(sent, Some(Ok(()))) {
            return self.count_refused(peer, Refused::ReplyFailed);
        }
        let mut visit = Visit {
            service: Rc::clone(self),
            stream: DatagramStream::new(stream),
            outlet,
            passed_at: reactor.now(),
            next_look: reactor.now() + self.world.settings.engine.ping.interval,
        };
        let ended = self.draining.or_raised(visit.run_within_limit()).await;
        let ended = ended.unwrap_or(Ended::Drained);
        let Visit { stream, outlet, .. } = visit;
        let ended = DatagramsEnded {
            peer,
            sent: outlet.sent,
            passed_back: outlet.passed_back,
            since,
            reason: ended.as_str(),
            user: Some(&one_word(&user)),
            way: None,
        };
        ended.log();
        drop(outlet);
        stream.part(reactor).await;
    }

    /// A user's sockets, which are one session of those that it may have, and one dial. As
    /// long as they are counted, memory is kept for all that may wait in them.
    async fn open_outlet(
        self: &Rc<Self>,
        user: &Arc<str>,
    ) -> Result<(Outlet, UserSession, Counted), Refused> {
        if self.world.is_draining() {
            return Err(Refused::Draining);
        }
        let settings = self.settings();
        let may = self.allowance(&settings, user)?;
        let session = self.begin_dial(user, &may, Beginning::Dial).await?;
        if self.connections() >= settings.connections_max {
            return Err(Refused::TooManyConnections);
        }
        if !self.has_memory_for(budget::VISIT_BYTES_MAX) {
            return Err(Refused::OverMemory);
        }
        let opened = Outlet::open(self, user).map_err(|error| {
            debug!(%error, "no socket for datagrams");
            Refused::NoDescriptor
        });
        Ok((opened?, session, self.datagram_visits.enter()))
    }
}

impl Visit {
    async fn run_within_limit(&mut self) -> Ended {
        let reactor = Rc::clone(&self.service.world.reactor);
        match self.service.settings().session_ttl {
            Some(limit) => {
                let until = reactor.now() + limit;
                let ended = reactor.deadline(until, self.run()).await;
                ended.unwrap_or(Ended::Expired)
            }
            None => self.run().await,
        }
    }

    async fn run(&mut self) -> Ended {
        let reactor = Rc::clone(&self.service.world.reactor);
        loop {
            match self.turn() {
                Ok(true) => yield_now().await,
                Ok(false) => {}
                Err(ended) => return ended,
            }
            let now = reactor.now();
            let idle_until = self.passed_at + self.idle_max();
            if now >= idle_until {
                return Ended::Expired;
            }
            if let Err(ended) = self.look_for_life(now) {
                return ended;
            }
            let until = idle_until.min(self.next_look);
            // When nothing is there until then, it is time for one of these.
            reactor.deadline(until, self.something()).await;
        }
    }

    /// Pings a client whose connection has messages and that is silent, so that no gateway
    /// takes it for dead, and gives up one that does not answer.
    fn look_for_life(&mut self, now: Timestamp) -> Result<(), Ended> {
        if now < self.next_look {
            return Ok(());
        }
        let ping = self.service.world.settings.engine.ping;
        self.next_look = now + ping.interval;
        if self.stream.look_for_life(ping)? == Life::Gone {
            return Err(Ended::TimedOut);
        }
        Ok(self.stream.flush()?)
    }

    fn idle_max(&self) -> Duration {
        let idle = self.service.settings().session_idle;
        idle.map_or(IDLE_MAX, |idle| idle.min(IDLE_MAX))
    }

    /// Waits until there may be something to do.
    async fn something(&mut self) {
        poll_fn(|context| {
            let stream = self.stream.poll_ready(context);
            let outlet = self.outlet.poll_ready(context);
            match stream.is_ready() || outlet.is_ready() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Passes on what is there, but not too much of it; tells whether there may be more.
    fn turn(&mut self) -> Result<bool, Ended> {
        let before = (self.outlet.sent, self.outlet.passed_back);
        // What has waited goes before what comes.
        self.outlet.handle_answer();
        let has_sent_all = self.send()?;
        let is_more = self.outlet.receive(&mut self.stream)?;
        self.stream.flush()?;
        if (self.outlet.sent, self.outlet.passed_back) != before {
            self.passed_at = self.service.world.reactor.now();
        }
        Ok(is_more || !has_sent_all)
    }

    /// Sends what the client has said; tells whether that is all.
    fn send(&mut self) -> Result<bool, Ended> {
        let outlet = &mut self.outlet;
        let left = self.stream.take_turn(|datagram| outlet.send(datagram));
        match left? {
            Left::Nothing => Ok(true),
            Left::More => Ok(false),
            Left::End => Err(Ended::Finished),
        }
    }
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Drained => "drained",
        }
    }
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}
