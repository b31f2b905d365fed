//! What a session is for, in words for its line of the log and for operators.

use std::fmt::{self, Write};
use std::rc::Rc;

use tracing::debug;

use crate::metrics::DIAL_LOG;
use crate::protocol::socks5::{Destination, Host};

/// Characters of a name that are told; no name of a host is longer than 255.
const TOLD_CHARS_MAX: usize = 255;

/// What a session was dialled for; each one word of a line.
#[derive(Debug)]
pub struct Errand {
    /// For whom, where a relay dialled.
    pub user: Option<Box<str>>,
    /// Where to, as it was asked.
    pub target: Box<str>,
    /// By which way, where an agent had several.
    pub way: Option<Rc<str>>,
    /// What was asked.
    pub command: &'static str,
}

/// A destination in one word.
pub fn target(destination: &Destination) -> Box<str> {
    let target = match (&destination.host, destination.address()) {
        (Host::Name(name), _) => format!("{}:{}", one_word(name), destination.port),
        (Host::Address(_), Some(address)) => address.to_string(),
        (Host::Address(_), None) => unreachable!("it is an address"),
    };
    target.into()
}

/// As it may stand in a line of the log, where a space begins another field.
pub fn one_word(text: &str) -> String {
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        let is_plain = c.is_alphanumeric() || c.is_ascii_graphic() && !matches!(c, '"' | '\\');
        match (index, is_plain) {
            (TOLD_CHARS_MAX.., _) => {
                shown.push('…');
                break;
            }
            (_, true) => shown.push(c),
            // To a string it does not fail.
            (_, false) => {
                let _: fmt::Result = write!(shown, "{}", c.escape_unicode());
            }
        }
    }
    shown
}

/// Logs what kept a user from where it wanted to go.
pub(super) fn log_not_reached(
    what: &str,
    user: &str,
    destination: &Destination,
    error: &dyn fmt::Display,
) {
    debug!(
        target: DIAL_LOG,
        user = %one_word(user),
        target = %target(destination),
        %error,
        "{what}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_one_word_and_not_endless() {
        for (text, expected) in [
            ("alice", "alice"),
            ("жук@a.b", "жук@a.b"),
            ("a reason=x\n", "a\\u{20}reason=x\\u{a}"),
            ("\u{1b}[2J\"\\", "\\u{1b}[2J\\u{22}\\u{5c}"),
            ("\u{202e}x", "\\u{202e}x"),
        ] {
            assert_eq!(one_word(text), expected);
        }
        assert_eq!(one_word(&"a".repeat(255)), "a".repeat(255));
        assert_eq!(one_word(&"a".repeat(5000)).chars().count(), 256);
        for (host, port, expected) in [
            ("example.com", 443, "example.com:443"),
            ("192.0.2.7", 80, "192.0.2.7:80"),
            ("::1", 22, "[::1]:22"),
        ] {
            let destination = Destination::named(host, port).unwrap();
            assert_eq!(&*target(&destination), expected);
        }
    }
}
