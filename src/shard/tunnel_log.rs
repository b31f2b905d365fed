//! Lines of the log about what clients of jProxy are refused: who, what, and why.

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
use super::user_lines::UserLines;
use crate::access::Pace;
use crate::access::jproxy::UserHash;
use crate::metrics::ACCESS_LOG;
use crate::metrics::counters::Label;
use crate::protocol::jproxy::PacketError;
use crate::relay::mux::{Answer, Asked};
use crate::session::refused::Refused;
use crate::time::Timestamp;

/// Warnings of each kind that a user's client cannot be understood, in a minute: it may try again
/// at once.
const WARNINGS_PER_MINUTE: u32 = 1;

/// Of a hash: enough to find the file that is called by it, and too little to log in.
const TOLD_HASH_BYTES: usize = 8;

/// From here on up are ports that the system hands out, or that are somebody's own choice.
const WELL_KNOWN_END: u16 = 1024;

/// Ports beyond these that are often asked for.
const OFTEN_ASKED: [u16; 10] = [1080, 3128, 3306, 3389, 5432, 5900, 6379, 8000, 8080, 8443];

/// What was said of each user.
#[derive(Debug, Default)]
pub(super) struct TunnelLog {
    lines: UserLines,
    /// INVARIANT: they are users that there were since the settings were last replaced.
    warnings: RefCell<HashMap<(Arc<str>, Doubt), Pace, RandomState>>,
}

/// Why a user's client may not be understood. One thing that is said hides no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Doubt {
    Key,
    Dialect,
}

/// What is known of how a tunnel's client speaks.
#[derive(Debug, Default)]
pub(super) struct Signs {
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
        if let Some(left_out) = self.lines.take(user, now) {
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
        if let Some(left_out) = self.lines.take(Some(&guest.user), now) {
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
        if self.may_warn(&guest.user, Doubt::Dialect, now) {
            let Spoken { dialect, set_by } = guest.spoken;
            warn!(
                peer = %guest.peer,
                user = %one_word(&guest.user),
                %error,
                next = guest.spoken.next_step(),
                "the client of a tunnel speaks the other dialect, and is closed: {set_by} says \
                 \"{dialect}\""
            );
        }
    }

    /// Warns of a client whose first packet could not be decrypted.
    pub(super) fn doubt_key(&self, guest: &GuestTunnel, now: Timestamp) {
        if self.may_warn(&guest.user, Doubt::Key, now) {
            warn!(
                peer = %guest.peer,
                user = %one_word(&guest.user),
                next = "have both files made anew, with `midspan key jproxy`, and bring each to its \
                        place",
                "the first packet of a tunnel cannot be read, as where its client has another \
                 private key than that of the user's file"
            );
        }
    }

    /// Forgets users that are gone.
    pub(super) fn keep(&self, is_known: impl Fn(&str) -> bool) {
        let mut warnings = self.warnings.borrow_mut();
        warnings.retain(|(user, _), _| is_known(user));
        self.lines.keep(is_known);
    }

    fn may_warn(&self, user: &Arc<str>, doubt: Doubt, now: Timestamp) -> bool {
        let mut warnings = self.warnings.borrow_mut();
        let pace = warnings.entry((Arc::clone(user), doubt)).or_default();
        pace.take(WARNINGS_PER_MINUTE, now)
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
            "port {} is {meant} in the other dialect, and {set_by} says \"{dialect}\"; if that was \
             meant, {}",
            destination.port,
            self.guest.spoken.next_step()
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
    fn a_warning_of_one_kind_hides_none_of_another_and_comes_once_a_minute() {
        let log = TunnelLog::default();
        let [alice, bob] = ["alice", "bob"].map(Arc::<str>::from);
        for (s, user, doubt, expected) in [
            (0, &alice, Doubt::Key, true),
            (0, &alice, Doubt::Dialect, true),
            (0, &bob, Doubt::Dialect, true),
            (1, &alice, Doubt::Key, false),
            (1, &alice, Doubt::Dialect, false),
            (1, &bob, Doubt::Key, true),
            (61, &alice, Doubt::Key, true),
            (61, &alice, Doubt::Dialect, true),
        ] {
            let now = Timestamp::from_nanos(1_000_000_000 * (1_000 + s));
            assert_eq!(log.may_warn(user, doubt, now), expected, "{user}, {s}");
        }
        log.keep(|user| user == "bob");
        assert_eq!(log.warnings.borrow().len(), 2);
    }

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
}
