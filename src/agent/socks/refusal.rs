//! Why a local client is not connected: a number for SOCKS5, a name for the counters, and words
//! which say who refused, for HTTP and the log.
//!
//! SOCKS5 has numbers alone, and one for rules, whoever made them: RFC 1928 §6.
//!
//! Left out of the words: as whom a relay is asked, which is nobody's who reaches the port.

use std::fmt;

use crate::access::routing::Ruling;
use crate::agent::leg::LegError;
use crate::metrics::counters::Label;
use crate::protocol::socks5::ReplyCode;
use crate::session::refused::Refused;

/// What a client is told, and what is counted.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ReplyCode,
    pub(super) refused: Refused,
    pub(super) why: Why,
}

/// Whose decision or failure it was. Relays are named by host and port.
#[derive(Debug)]
pub(super) enum Why {
    /// A rule of ours, as it is cited.
    Rule(String),
    /// It was dialled without a relay, as a rule of ours says.
    Direct { rule: String, error: LegError },
    /// A relay was asked, and this is what its reply says.
    Relay { relay: String, said: &'static str },
    /// No relay can be reached.
    NoRelay,
    /// A relay does not let us in, or is not whom we trust.
    NotLetIn { relay: String },
    /// A relay lets us in, and does not reply.
    Mute { relay: String },
    /// All relays together had no time to reply.
    OutOfTime,
    /// We do not serve it, or have no room for it.
    Proxy(Refused),
}

impl Refusal {
    /// By a rule of ours.
    pub(super) fn by_rule(ruling: &Ruling<'_>) -> Self {
        let refused = Refused::EgressDenied;
        Self {
            code: refused.socks_reply(),
            refused,
            why: Why::Rule(ruling.cite()),
        }
    }

    /// By what came of dialling it without a relay.
    pub(super) fn direct(ruling: &Ruling<'_>, error: LegError) -> Self {
        Self {
            code: error.reply(),
            refused: Refused::DialFailed,
            why: Why::Direct {
                rule: ruling.cite(),
                error,
            },
        }
    }

    /// By a relay's reply.
    pub(super) fn by_relay(relay: &str, code: ReplyCode) -> Self {
        Self::in_words(relay, code, said_by_relay(code))
    }

    /// By a relay that says more than the number does.
    pub(super) fn in_words(relay: &str, code: ReplyCode, said: &'static str) -> Self {
        let relay = relay.to_owned();
        Self {
            code,
            refused: Refused::DialFailed,
            why: Why::Relay { relay, said },
        }
    }

    /// As there is no relay.
    pub(super) const fn no_relay() -> Self {
        let refused = Refused::NoRelay;
        Self {
            code: refused.socks_reply(),
            refused,
            why: Why::NoRelay,
        }
    }

    /// As a relay does not let us in.
    pub(super) fn not_let_in(relay: &str) -> Self {
        let relay = relay.to_owned();
        Self {
            code: ReplyCode::GeneralFailure,
            refused: Refused::RelayRefuses,
            why: Why::NotLetIn { relay },
        }
    }

    /// As a relay lets us in, and gives no reply.
    pub(super) fn mute(relay: &str, code: ReplyCode) -> Self {
        let relay = relay.to_owned();
        Self {
            code,
            refused: Refused::DialFailed,
            why: Why::Mute { relay },
        }
    }

    /// By ourselves, for what is no rule's.
    pub(super) const fn by_proxy(refused: Refused) -> Self {
        Self {
            code: refused.socks_reply(),
            refused,
            why: Why::Proxy(refused),
        }
    }

    /// The status that says the same to a client of HTTP: RFC 9110 §15.
    pub(super) const fn http_status(&self) -> u16 {
        match self.code {
            ReplyCode::NotAllowed => 403,
            ReplyCode::TtlExpired => 504,
            _ => 502,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "this proxy's rule {rule} denies it"),
            Self::Direct { rule, error } => {
                write!(
                    f,
                    "dialled without a relay, by this proxy's rule {rule}: {error}"
                )
            }
            Self::Relay { relay, said } => write!(f, "the relay at {relay} {said}"),
            Self::NoRelay => f.write_str("no relay can be reached; this proxy's log says why"),
            Self::NotLetIn { relay } => write!(
                f,
                "the relay at {relay} does not let this proxy in, or is not trusted; this \
                 proxy's log says which"
            ),
            Self::Mute { relay } => {
                write!(
                    f,
                    "the relay at {relay} lets this proxy in, and does not reply"
                )
            }
            Self::OutOfTime => f.write_str("no relay has replied in time"),
            Self::Proxy(refused) => write!(f, "this proxy refuses it: {}", refused.as_str()),
        }
    }
}

/// What a relay says by a number.
pub(super) const fn said_by_relay(code: ReplyCode) -> &'static str {
    match code {
        ReplyCode::NotAllowed => {
            "does not allow it, by its [egress] or its rules for the user of this proxy"
        }
        ReplyCode::GeneralFailure => {
            "cannot do it now: the user of this proxy or the relay is at a limit, or it stops; \
             its log says which"
        }
        ReplyCode::NetworkUnreachable => "has no route to there",
        ReplyCode::HostUnreachable => "finds no such host, or no way to it",
        ReplyCode::ConnectionRefused => "finds nobody who listens there",
        ReplyCode::TtlExpired => "had no answer from there in time",
        _ => "does not serve this",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::routing::{Destination, Host, RoutingRules};

    #[test]
    fn who_refused_is_told_apart() {
        let relay = |code| Refusal::by_relay("r:1", code);
        let rules = RoutingRules::parse("deny *:25\ndirect *", |_| unreachable!("no list"));
        let rules = rules.expect("rules").read_from("/rules".into());
        let judge = |port| {
            let host = Host::Name("a");
            rules.judge(&Destination { host, port })
        };
        let direct = |error| Refusal::direct(&judge(80), error);
        let timeout = LegError::ConnectTimeout {
            target: "a:1".to_owned(),
        };
        for (refusal, status, words) in [
            (
                Refusal::by_rule(&judge(25)),
                403,
                "this proxy's rule /rules:1 (deny *:25) denies it",
            ),
            (
                relay(ReplyCode::NotAllowed),
                403,
                "the relay at r:1 does not allow it, by its [egress] or",
            ),
            (relay(ReplyCode::GeneralFailure), 502, "its log says which"),
            (
                relay(ReplyCode::NetworkUnreachable),
                502,
                "the relay at r:1 has no route",
            ),
            (
                Refusal::no_relay(),
                502,
                "no relay can be reached; this proxy's log says why",
            ),
            (
                relay(ReplyCode::HostUnreachable),
                502,
                "the relay at r:1 finds no such host",
            ),
            (
                relay(ReplyCode::TtlExpired),
                504,
                "the relay at r:1 had no answer from there in time",
            ),
            (
                direct(timeout),
                504,
                "dialled without a relay, by this proxy's rule /rules:2 (direct *): ",
            ),
            (
                relay(ReplyCode::Other(99)),
                502,
                "the relay at r:1 does not serve this",
            ),
        ] {
            let got = refusal.why.to_string();
            assert!(got.contains(words), "{got}");
            assert_eq!(refusal.http_status(), status, "{got}");
        }
    }
}
