//! What each user has of a shard, within what it may: sessions, dials, and names that are
//! resolved.
//!
//! Left out: who somebody is (`access`), and where it may go (`access::egress`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ahash::RandomState;

use super::errand::{Errand, one_word, target};
use super::jproxy::GuestTunnel;
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::rendezvous_settings::RendezvousSettings;
use super::rest::Ask;
use super::user_lines::UserLines;
use super::user_sessions::{Beginning, Dial, SessionId, UserSession, UserSessions};
use crate::access::egress::{Candidate, Verdict};
use crate::access::{Allowance, Guesses};
use crate::config::limits::NAMES_PER_USER_HIGHEST;
use crate::protocol::socks5::Request;
use crate::protocol::websocks::Knock;
use crate::runtime::clock;
use crate::runtime::host_address::is_of_host;
use crate::runtime::resolver::{Asker, RESOLVER_QUEUE_MAX};
use crate::session::link::Link;
use crate::session::refused::Refused;

// One user may have as many names wait as it is let.
const _: () = assert!(NAMES_PER_USER_HIGHEST <= RESOLVER_QUEUE_MAX as u64);

/// Before the names of jProxy's users where sessions, dials and names are counted. Names of
/// WebSocks' have no colon.
const OF_TUNNELS: &str = "jproxy:";

/// All users of one shard.
#[derive(Debug, Default)]
pub struct ShardUsers {
    /// Those of users whom this shard counts for all.
    pub(super) sessions: RefCell<UserSessions>,
    /// The number of the last session that another, or this, was asked to count.
    last_session: Cell<u64>,
    guesses: RefCell<Guesses>,
    /// Of the log, about what they are refused who come by WebSocks.
    pub(super) lines: UserLines,
    /// Sessions that run, by their number among those that the relay dialled for.
    dialled: RefCell<HashMap<u32, Dialled, RandomState>>,
}

/// What is remembered of a session until it ends.
#[derive(Debug)]
struct Dialled {
    errand: Rc<Errand>,
    _session: UserSession,
}

/// What a user may now, by the settings that there are now.
pub(super) struct May<'a> {
    service: &'a RelayService,
    settings: &'a RendezvousSettings,
    own: Option<&'a Allowance>,
}

impl May<'_> {
    /// Sessions at once; 0 is no limit.
    fn sessions_max(&self) -> u32 {
        let own = self.own.and_then(|own| own.sessions_max);
        own.unwrap_or(self.settings.sessions_per_user_max)
    }

    /// What may be dialled in a minute; 0 is no limit.
    fn dials_per_minute_max(&self) -> u32 {
        let own = self.own.and_then(|own| own.dials_per_minute_max);
        own.unwrap_or(self.settings.dials_per_minute_max)
    }

    /// Its visitors that may await somebody at once.
    pub(super) fn binds_max(&self) -> u32 {
        let own = self.own.and_then(|own| own.binds_max);
        own.unwrap_or(self.settings.binds_per_user_max)
    }

    /// Whether its rules, and then the relay's, let a destination be dialled.
    pub(super) fn dial(&self, candidate: &Candidate<'_>) -> bool {
        let own = self.own.map_or(&[][..], |own| &own.egress);
        let RelayService {
            world,
            host_addresses,
            ..
        } = self.service;
        let is_own = |address| host_addresses.contains(address, world.reactor.now(), is_of_host);
        self.settings.egress.judge(own, candidate, is_own) == Verdict::Allow
    }
}

impl RelayService {
    /// Whose a knock is. Whoever guesses is not listened to for a while.
    pub(super) fn check_knock(
        &self,
        knock: &Knock,
        peer: PeerAddress,
        link: &Link,
    ) -> Result<Arc<str>, Refused> {
        let settings = self.settings();
        let (name, proof) = knock.credentials.as_ref().ok_or(Refused::NoPassword)?;
        let source = source(peer, link);
        if !self.may_guess(source) {
            return Err(Refused::TooManyWrong);
        }
        let user = settings.users.authenticate(name, proof, clock::unix_time());
        let Some(user) = user else {
            self.note_guess(source);
            return Err(Refused::WrongPassword);
        };
        let name = Arc::clone(&user.name);
        knock.protocol.map(|_| name).ok_or(Refused::NoSubProtocol)
    }

    /// Whether somebody from there may be wrong once more.
    pub(super) fn may_guess(&self, source: Option<IpAddr>) -> bool {
        let wrong_max = self.settings().wrong_passwords_per_minute_max;
        let (guesses, now) = (self.users.guesses.borrow(), self.world.reactor.now());
        wrong_max == 0 || source.is_none_or(|ip| guesses.is_calm(ip, wrong_max, now))
    }

    /// Somebody from there was wrong.
    pub(super) fn note_guess(&self, source: Option<IpAddr>) {
        let wrong_max = self.settings().wrong_passwords_per_minute_max;
        if let Some(ip) = source.filter(|_| wrong_max > 0) {
            let now = self.world.reactor.now();
            self.users.guesses.borrow_mut().add(ip, wrong_max, now);
        }
    }

    /// What a user of jProxy's may; nothing any more if nobody has the key by which it has logged
    /// in.
    pub(super) fn tunnel_allowance<'a>(
        &'a self,
        settings: &'a RendezvousSettings,
        guest: &GuestTunnel,
    ) -> Result<May<'a>, Refused> {
        let tunnels = &settings.tunnels;
        let is_known = tunnels.knows(&guest.user, &guest.hash);
        is_known.then_some(()).ok_or(Refused::EgressDenied)?;
        Ok(May {
            service: self,
            settings,
            own: tunnels.allowances.of(&guest.user),
        })
    }

    /// What a user may; nothing any more if nobody has the name.
    pub(super) fn allowance<'a>(
        &'a self,
        settings: &'a RendezvousSettings,
        user: &str,
    ) -> Result<May<'a>, Refused> {
        let known = settings.users.find(user);
        known.ok_or(Refused::EgressDenied)?;
        Ok(May {
            service: self,
            settings,
            own: settings.allowances.of(user),
        })
    }

    /// Begins a session of a user, if it may have another.
    pub(super) async fn begin_dial(
        &self,
        user: &Arc<str>,
        may: &May<'_>,
        beginning: Beginning,
    ) -> Result<UserSession, Refused> {
        let (sessions_max, per_minute_max) = (may.sessions_max(), may.dials_per_minute_max());
        if sessions_max == 0 && per_minute_max == 0 && beginning == Beginning::Dial {
            return Ok(UserSession::uncounted(Arc::clone(user)));
        }
        let last = &self.users.last_session;
        last.set(last.get() + 1);
        let session = SessionId {
            shard: self.world.shard,
            number: last.get(),
        };
        let (world, by) = (Rc::clone(&self.world), self.owner_of(user.as_bytes()));
        // Dropped on the way, it is taken back.
        let begun = UserSession::counted(Arc::clone(user), world, by, session);
        let dial = Dial {
            user: Arc::clone(user),
            session,
            sessions_max,
            per_minute_max,
            beginning,
        };
        self.ask_shard(by, Ask::Dial(dial)).await?;
        Ok(begun)
    }

    /// On whose behalf names are resolved.
    pub(super) fn asker(&self, user: &Arc<str>) -> Asker {
        Asker {
            name: Arc::clone(user),
            names_max: self.settings().names_per_user_max,
        }
    }

    /// Remembers a session that the relay dialled for, under its number.
    pub(super) fn remember_dialled(&self, number: u32, session: UserSession, request: &Request) {
        let errand = Rc::new(Errand {
            user: Some(one_word(session.user()).into()),
            target: target(&request.destination),
            way: None,
            command: request.command.as_str(),
        });
        let dialled = Dialled {
            errand,
            _session: session,
        };
        self.users.dialled.borrow_mut().insert(number, dialled);
    }

    /// What is logged of it.
    pub(super) fn errand_of(&self, number: u32) -> Option<Rc<Errand>> {
        let dialled = self.users.dialled.borrow();
        dialled.get(&number).map(|known| Rc::clone(&known.errand))
    }

    /// Whether a session runs under this number.
    pub(super) fn is_dialled(&self, number: u32) -> bool {
        self.users.dialled.borrow().contains_key(&number)
    }

    /// The session has ended.
    pub(super) fn forget_dialled(&self, number: u32) {
        self.users.dialled.borrow_mut().remove(&number);
    }

    /// Forgets users that are gone.
    pub(super) fn forget_users(&self) {
        let settings = self.settings();
        let by_tunnel = |user: &str| settings.tunnels.users.named(user).is_some();
        let by_password = |user: &str| settings.users.find(user).is_some();
        let is_known = |counted: &str| match counted.strip_prefix(OF_TUNNELS) {
            Some(user) => by_tunnel(user),
            None => by_password(counted),
        };
        self.users.lines.keep(by_password);
        self.users.sessions.borrow_mut().forget(is_known);
        self.guest_tunnels.log.keep(by_tunnel);
    }
}

/// As which a user of jProxy's is counted: another than the one of WebSocks who may have the same
/// name.
pub(super) fn counted_as(user: &str) -> Arc<str> {
    format!("{OF_TUNNELS}{user}").into()
}

/// Where somebody knocks from. The socket is asked only where nobody wanted to know before.
pub(super) fn source(peer: PeerAddress, link: &Link) -> Option<IpAddr> {
    let asked = || link.peer_address().map(|address| address.ip());
    peer.ip().or_else(asked)
}
