//! Clients of jProxy: their tunnels, up to the first packet.
//!
//! ```text
//! "jProxy", version ── "jProxy", 0 ── hash ── 0, key ── packets: the plane, and tunnel_channels.rs
//! ```
//!
//! Of whoever is refused here nothing but that is told, as the protocol has no words for it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ahash::RandomState;
use tracing::{debug, info, warn};

use super::errand::one_word;
use super::mux::MuxStart;
use super::peer_address::PeerAddress;
use super::per_address::CountedAddress;
use super::rendezvous::RelayService;
use super::rendezvous_settings::Spoken;
use super::session_log::millis;
use super::streams::Lifetime;
use super::tunnel_log::{Applicant, Signs, TunnelLog};
use super::user_sessions::UserSession;
use super::users::{counted_as, source};
use super::websocks::read_more;
use crate::access::jproxy::UserHash;
use crate::metrics::ACCESS_LOG;
use crate::protocol::Progress;
use crate::protocol::jproxy::{
    Dialect, ENCRYPTED_KEY_BYTES, Greeting, HandshakeError, LoginAnswer, SessionKey, decode_hash,
    encode_acceptance,
};
use crate::relay::CloseReason;
use crate::relay::mux::{Role, TUNNEL_BYTES_MAX};
use crate::runtime::clock;
use crate::runtime::flag::Flag;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;
use crate::slab::Key;
use crate::time::Timestamp;

/// Bytes that a tunnel may hold: what waits for its channels' ends, in room of at most twice as
/// much and a KiB for each of 1024, and what waits for the tunnel.
pub(super) const HELD_BYTES_MAX: u64 = 2 * TUNNEL_BYTES_MAX as u64 + (1024 << 10) + (512 << 10);

/// The tunnels of one shard that are users'.
#[derive(Debug, Default)]
pub(super) struct GuestTunnels {
    tunnels: RefCell<HashMap<Key, GuestTunnel, RandomState>>,
    /// Those of each channel that is asked for, until it is there.
    pub(super) asking: RefCell<HashMap<Key, Rc<Flag>, RandomState>>,
    /// Sessions of users, by their channels.
    pub(super) sessions: RefCell<HashMap<Key, UserSession, RandomState>>,
    pub(super) log: TunnelLog,
}

/// A user's tunnel.
#[derive(Clone, Debug)]
pub(super) struct GuestTunnel {
    pub(super) user: Arc<str>,
    /// As which it is counted.
    pub(super) counted_as: Arc<str>,
    /// By which it has logged in.
    pub(super) hash: UserHash,
    pub(super) peer: PeerAddress,
    pub(super) spoken: Spoken,
    pub(super) signs: Rc<Signs>,
    since: Timestamp,
    _counted: Rc<Option<CountedAddress>>,
}

/// A connection that speaks jProxy.
pub(super) struct TunnelNewcomer {
    pub(super) link: Link,
    /// What has come so far.
    pub(super) received: Vec<u8>,
    pub(super) peer: PeerAddress,
    pub(super) counted: Option<CountedAddress>,
    /// Of its listener.
    pub(super) dialect: Option<Dialect>,
    pub(super) since: Timestamp,
    /// When its handshake has to be over.
    pub(super) deadline: Timestamp,
}

/// Who has logged in.
struct Login {
    user: Arc<str>,
    hash: UserHash,
    /// Of the new tunnel.
    key: SessionKey,
}

/// Why a client gets no tunnel, and what it is told.
struct NoTunnel {
    who: Applicant,
    refused: Refused,
    words: Vec<u8>,
}

impl GuestTunnels {
    pub(super) fn find(&self, tunnel: Key) -> Option<GuestTunnel> {
        self.tunnels.borrow().get(&tunnel).cloned()
    }

    /// Tunnels of one user.
    fn count_of(&self, user: &str) -> usize {
        let tunnels = self.tunnels.borrow();
        tunnels.values().filter(|it| &*it.user == user).count()
    }
}

impl RelayService {
    /// Lets a client in whose handshake is what it should be, and begins its tunnel.
    pub(super) async fn serve_tunnel(self: &Rc<Self>, newcomer: TunnelNewcomer) {
        let TunnelNewcomer {
            link,
            received,
            peer,
            counted,
            dialect,
            since,
            deadline,
        } = newcomer;
        let reactor = &self.world.reactor;
        let source = source(peer, &link);
        let Ok(mut stream) = self.wrap(link, false) else {
            return self.count_refused(peer, Refused::ClosedEarly);
        };
        stream.put_back(received);
        let login = reactor.deadline(deadline, self.log_in(&mut stream, source));
        let login = login.await.unwrap_or(Err(Refused::TooSlow.into()));
        let Login { user, hash, key } = match login {
            Ok(login) => login,
            Err(NoTunnel {
                who,
                refused,
                words,
            }) => {
                self.count_refused(peer, refused);
                let log = &self.guest_tunnels.log;
                log.refuse_tunnel(&who, peer, refused, clock::now());
                return stream.part(reactor, &words).await;
            }
        };
        let settings = self.settings();
        let spoken = settings.tunnels.dialect_of(&user, dialect);
        let start = MuxStart {
            key,
            role: Role::Server,
            dialect: spoken.dialect,
            channels_max: settings.tunnels.channels_max,
        };
        let tunnel = self.world.begin_mux(stream, start);
        debug!(%peer, user = &*user, dialect = spoken.dialect.as_str(), "tunnel begun");
        let guest = GuestTunnel {
            counted_as: counted_as(&user),
            user,
            hash,
            peer,
            spoken,
            signs: Rc::default(),
            since,
            _counted: Rc::new(counted),
        };
        self.guest_tunnels
            .tunnels
            .borrow_mut()
            .insert(tunnel, guest);
        if self.world.is_draining() {
            self.world.muxes.leave(tunnel, CloseReason::Drained);
        }
        // The user may have gone while it was told the key.
        self.leave_if_gone(tunnel);
    }

    /// Reads who a client is, and tells it the key of its tunnel.
    async fn log_in(
        &self,
        stream: &mut WrappedStream,
        source: Option<IpAddr>,
    ) -> Result<Login, NoTunnel> {
        let mut received = Vec::new();
        read(stream, &mut received, |bytes| {
            let decoded = Greeting::decode(bytes)?;
            if let Progress::Complete { value, .. } = &decoded {
                value.check()?;
            }
            Ok(decoded)
        })
        .await?;
        send(stream, |words| encode_acceptance(true, words)).await?;
        let hash = read(stream, &mut received, |bytes| Ok(decode_hash(bytes))).await?;
        let (user, key, encrypted) = self.admit_tunnel(&hash, source)?;
        let accepted = LoginAnswer::Accepted(&encrypted);
        send(stream, |words| accepted.encode(words)).await?;
        stream.put_back(received);
        Ok(Login { user, hash, key })
    }

    /// The key of a new tunnel for whoever has this hash, if it may have one; and the same as only
    /// that user can read it.
    fn admit_tunnel(
        &self,
        hash: &UserHash,
        source: Option<IpAddr>,
    ) -> Result<(Arc<str>, SessionKey, [u8; ENCRYPTED_KEY_BYTES]), NoTunnel> {
        let refuse = |who, refused| {
            let mut words = Vec::new();
            LoginAnswer::Refused.encode(&mut words);
            NoTunnel {
                who,
                refused,
                words,
            }
        };
        let settings = self.settings();
        if !self.may_guess(source) {
            return Err(refuse(Applicant::Unknown, Refused::TooManyWrong));
        }
        let Some(user) = settings.tunnels.users.find(hash) else {
            self.note_guess(source);
            return Err(refuse(Applicant::Stranger(*hash), Refused::UnknownKey));
        };
        let refuse = |refused| refuse(Applicant::User(Arc::clone(user.name())), refused);
        self.check_tunnels(user.name()).map_err(refuse)?;
        let key = SessionKey((self.random)());
        let encrypted = user.encrypt(&key).map_err(|error| {
            warn!(user = &**user.name(), %error, "no key can be made for a tunnel");
            refuse(Refused::ReplyFailed)
        })?;
        Ok((Arc::clone(user.name()), key, encrypted))
    }

    /// Whether a user may have another tunnel.
    fn check_tunnels(&self, user: &str) -> Result<(), Refused> {
        let tunnels = &self.settings().tunnels;
        let of_user = self.guest_tunnels.count_of(user);
        if self.world.is_draining() {
            return Err(Refused::Draining);
        }
        if self.world.muxes.tunnels() >= tunnels.tunnels_max {
            return Err(Refused::TooManyTunnels);
        }
        if tunnels.per_user_max > 0 && of_user >= tunnels.per_user_max {
            return Err(Refused::TooManyOfUser);
        }
        match self.has_memory_for(HELD_BYTES_MAX) {
            true => Ok(()),
            false => Err(Refused::OverMemory),
        }
    }

    /// A tunnel is over.
    pub(super) fn forget_tunnel(&self, tunnel: Key, reason: CloseReason) {
        let ended = self.guest_tunnels.tunnels.borrow_mut().remove(&tunnel);
        if let Some(GuestTunnel {
            user, peer, since, ..
        }) = ended
        {
            let lasted_ms = millis(clock::now().since(since));
            info!(
                target: ACCESS_LOG,
                %peer,
                lasted_ms,
                reason = reason.label(),
                user = %one_word(&user),
                "channels' tunnel ended"
            );
        }
    }

    /// Has tunnels be served as the settings have it now.
    pub(super) fn set_up_tunnels(&self) {
        let settings = self.settings();
        if !settings.tunnels.users.is_empty() || self.world.muxes.tunnels() > 0 {
            let lifetime = Lifetime {
                ttl: settings.session_ttl,
                idle: settings.session_idle,
                half_closed: None,
            };
            self.world
                .muxes
                .set_limits(lifetime, settings.tunnels.stuck);
        }
    }

    /// Has all tunnels end once their channels have.
    pub(super) fn dismiss_tunnels(&self) {
        let tunnels = self.guest_tunnels.tunnels.borrow();
        for tunnel in tunnels.keys() {
            self.world.muxes.leave(*tunnel, CloseReason::Drained);
        }
    }

    /// Has the tunnels end in which nothing runs and whose users are gone.
    pub(super) fn leave_gone_users(&self) {
        for tunnel in self.guest_tunnels.tunnels.borrow().keys() {
            self.leave_if_gone(*tunnel);
        }
    }

    /// Has a tunnel end in which nothing runs if nobody has the key any more by which its client
    /// has logged in. Whoever comes again hears so. One in which something runs ends behind it, as
    /// this is asked again then.
    pub(super) fn leave_if_gone(&self, tunnel: Key) {
        if self.world.muxes.channels_of(tunnel) == Some(0)
            && let Some(guest) = self.guest_tunnels.find(tunnel)
            && !self.is_user(&guest)
        {
            self.world.muxes.leave(tunnel, CloseReason::Terminated);
        }
    }

    /// Whether a tunnel's user is one still.
    pub(super) fn is_user(&self, guest: &GuestTunnel) -> bool {
        self.settings().tunnels.knows(&guest.user, &guest.hash)
    }
}

/// What a client is told whose greeting is none that we speak.
pub(super) fn no_acceptance() -> Vec<u8> {
    let mut words = Vec::new();
    encode_acceptance(false, &mut words);
    words
}

/// Who is told nothing.
impl From<Refused> for NoTunnel {
    fn from(refused: Refused) -> Self {
        Self {
            who: Applicant::Unknown,
            refused,
            words: Vec::new(),
        }
    }
}

/// Only a greeting can be wrong, and is answered.
impl From<HandshakeError> for NoTunnel {
    fn from(error: HandshakeError) -> Self {
        let refused = match error {
            HandshakeError::Version { .. } => Refused::UnsupportedVersion,
            HandshakeError::Magic | HandshakeError::Status { .. } => Refused::BadSignature,
        };
        Self {
            who: Applicant::Unknown,
            refused,
            words: no_acceptance(),
        }
    }
}

async fn read<T>(
    stream: &mut WrappedStream,
    received: &mut Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<Progress<T>, HandshakeError>,
) -> Result<T, NoTunnel> {
    loop {
        match decode(received)? {
            Progress::Complete { value, consumed } => {
                received.drain(..consumed);
                return Ok(value);
            }
            Progress::Partial { .. } => read_more(stream, received).await?,
        }
    }
}

async fn send(
    stream: &mut WrappedStream,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Result<(), NoTunnel> {
    let mut words = Vec::new();
    encode(&mut words);
    let sent = stream.send_all(&words).await;
    sent.map_err(|_| Refused::ReplyFailed.into())
}
