//! Lines of the log about what clients of jProxy are refused: who, what, and why. Each user has so
//! many a minute, and strangers together as many, so that none of them fills the log; the next line
//! tells how many were left out.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use data_encoding::HEXUPPER;
use tracing::{info, warn};

use super::errand::{one_word, target};
use super::jproxy::GuestTunnel;
use super::peer_address::PeerAddress;
use super::rendezvous_settings::Spoken;
use crate::access::Pace;
use crate::access::jproxy::UserHash;
use crate::metrics::ACCESS_LOG;
use crate::metrics::counters::Label;
use crate::protocol::jproxy::PacketError;
use crate::relay::mux::{Answer, Asked};
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// Lines about one user in a minute, of one shard. All of them may be at once.
const LINES_PER_MINUTE: u32 = 60;

/// Warnings that a user's client speaks the other dialect, in a minute: it may try again at once.
const WARNINGS_PER_MINUTE: u32 = 1;

/// Of a hash: enough to find the file that is called by it, and too little to log in.
const TOLD_HASH_BYTES: usize = 8;

/// From here on up are ports that the system hands out, or that are somebody's own choice.
const WELL_KNOWN_END: u16 = 1024;

/// Ports beyond these that are often asked for.
const OFTEN_ASKED: [u16; 10] = [1080, 3128, 3306, 3389, 5432, 5900, 6379, 8000, 8080, 8443];

/// What was said of each user.
///
/// INVARIANT: they are users that there were since the settings were last replaced, and `None` for
/// all who are none.
#[derive(Debug, Default)]
pub(super) struct TunnelLog(RefCell<HashMap<Option<Arc<str>>, Said, RandomState>>);

#[derive(Debug, Default)]
struct Said {
    lines: Pace,
    left_out: u64,
    warnings: Pace,
}

/// What is known of the dialect of a tunnel's client.
#[derive(Debug, Default)]
pub(super) struct DialectSigns {
    /// A connection was made, so that the port was read as it was meant.
    pub(super) is_right: Cell<bool>,
    was_doubted: Cell<bool>,
}

/// Who is let have no tunnel.
#[derive(Clone, Debug)]
pub(super) enum Applicant {
    /// Nobody has shown anything.
    Unknown,
    Stranger(UserHash),
    User(Arc<str>),
}

/// What a user has asked for, and does not get.
pub(super) struct RefusedChannel<'a> {
    pub(super) guest: &'a GuestTunnel,
    pub(super) asked: &'a Asked,
    pub(super) refused: Refused,
    pub(super) answer: Answer,
    pub(super) is_user: bool,
}

impl TunnelLog {
    /// Logs that somebody gets no tunnel.
    pub(super) fn refuse_tunnel(
        &self,
        who: &Applicant,
        peer: PeerAddress,
        refused: Refused,
        now: Timestamp,
    ) {
        let (user, hash) = match who {
            Applicant::Unknown => return,
            Applicant::Stranger(hash) => (None, Some(short(hash))),
            Applicant::User(user) => (Some(user), None),
        };
        if let Some(left_out) = self.take_line(user, now) {
            info!(
                target: ACCESS_LOG,
                %peer,
                user = user.map(|user| one_word(user)),
                hash,
                reason = refused.as_str(),
                left_out,
                "channels' tunnel refused"
            );
        }
    }

    /// Logs that somebody gets no channel.
    pub(super) fn refuse_channel(&self, channel: &RefusedChannel<'_>, now: Timestamp) {
        let RefusedChannel {
            guest,
            asked,
            refused,
            answer,
            is_user,
        } = channel;
        if let Some(left_out) = self.take_line(Some(&guest.user), now) {
            info!(
                target: ACCESS_LOG,
                peer = %guest.peer,
                user = %one_word(&guest.user),
                target = %target(&asked.destination()),
                command = asked.command(),
                reason = refused.as_str(),
                status = answer.as_str(),
                hint = channel.hint(*is_user),
                left_out,
                "channel refused"
            );
        }
    }

    /// Warns of a client that speaks the other dialect.
    pub(super) fn doubt_dialect(&self, guest: &GuestTunnel, error: PacketError, now: Timestamp) {
        let mut said = self.0.borrow_mut();
        let said = said.entry(Some(Arc::clone(&guest.user))).or_default();
        if said.warnings.take(WARNINGS_PER_MINUTE, now) {
            let Spoken { dialect, set_by } = guest.spoken;
            let next = format!(
                "have the client pass --dialect {dialect}, or set dialect = \"{}\" in a \
                 [[jproxy.rules]] for this user",
                dialect.other()
            );
            warn!(
                peer = %guest.peer,
                user = %one_word(&guest.user),
                %error,
                next,
                "the client of a tunnel speaks the other dialect, and is closed: {set_by} says \
                 \"{dialect}\""
            );
        }
    }

    /// Forgets users that are gone.
    pub(super) fn keep(&self, is_known: impl Fn(&str) -> bool) {
        let mut said = self.0.borrow_mut();
        said.retain(|user, _| user.as_deref().is_none_or(&is_known));
    }

    /// Whether there may be another line about somebody, and then how many were left out before
    /// it, if any.
    fn take_line(&self, user: Option<&Arc<str>>, now: Timestamp) -> Option<Option<u64>> {
        let mut said = self.0.borrow_mut();
        let said = said.entry(user.map(Arc::clone)).or_default();
        if !said.lines.take(LINES_PER_MINUTE, now) {
            said.left_out += 1;
            return None;
        }
        let left_out = std::mem::take(&mut said.left_out);
        Some((left_out > 0).then_some(left_out))
    }
}

impl RefusedChannel<'_> {
    /// What may be the matter, where more is known than the reason.
    fn hint(&self, is_user: bool) -> Option<String> {
        if !is_user {
            return Some("its file is gone, or has another key: it is no user any more".to_owned());
        }
        let Asked::Connect(_, destination) = self.asked else {
            return None;
        };
        let is_missed = matches!(self.refused, Refused::DialFailed | Refused::EgressDenied);
        let signs = &self.guest.signs;
        let meant = meant_port(destination.port).filter(|_| is_missed && !signs.is_right.get())?;
        if signs.was_doubted.replace(true) {
            return None;
        }
        let Spoken { dialect, set_by } = self.guest.spoken;
        Some(format!(
            "port {} is {meant} in the other dialect: if that was meant, have the client pass \
             --dialect {dialect}, as {set_by} says, or set dialect = \"{}\" in a [[jproxy.rules]] \
             for this user",
            destination.port,
            dialect.other()
        ))
    }
}

/// The port that was meant if its bytes came in the other order, where that is the likelier one.
fn meant_port(port: u16) -> Option<u16> {
    let is_likely = |port: u16| port < WELL_KNOWN_END || OFTEN_ASKED.contains(&port);
    let swapped = port.swap_bytes();
    (is_likely(swapped) && !is_likely(port)).then_some(swapped)
}

fn short(hash: &UserHash) -> String {
    HEXUPPER.encode(&hash[..TOLD_HASH_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_likelier_the_other_way_round_was_meant_so() {
        for (port, expected) in [
            (20_480, Some(80)),
            (47_873, Some(443)),
            (5632, Some(22)),
            (36_895, Some(8080)),
            (80, None),
            (443, None),
            (8080, None),
            // Either may be.
            (0x0100, None),
            (0x0101, None),
            (50_000, None),
        ] {
            assert_eq!(meant_port(port), expected, "{port}");
        }
    }

    #[test]
    fn nobody_fills_the_log_and_what_is_left_out_is_told() {
        let at = |s: u64| Timestamp::from_nanos(1_000_000_000 * (1_000 + s));
        let log = TunnelLog::default();
        let alice: Arc<str> = "alice".into();
        for _ in 0..LINES_PER_MINUTE {
            assert_eq!(log.take_line(Some(&alice), at(0)), Some(None));
        }
        for _ in 0..3 {
            assert_eq!(log.take_line(Some(&alice), at(0)), None);
        }
        assert_eq!(log.take_line(None, at(0)), Some(None));
        assert_eq!(log.take_line(Some(&alice), at(1)), Some(Some(3)));
        assert_eq!(log.take_line(Some(&alice), at(2)), Some(None));
        log.keep(|user| user != "alice");
        assert_eq!(log.0.borrow().len(), 1);
    }
}
