//! What is wrong with a configuration, where it stands, and what to do next.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::path::PathBuf;

use super::{ListenAddress, Listener, TreeError, TunnelUsersError, ValueError};
use crate::access::egress::PatternError;
use crate::access::{FingerprintError, IssuerError, KeyHashError, PasswordDigestError};
use crate::protocol::jet::{PublicUrl, PublicUrlError};
use crate::protocol::ptth_http::NameError;
use crate::web::OriginError;

/// One thing wrong with the configuration.
///
/// Displays as `midspan.toml:7:1: unknown key "lsten" (did you mean
/// "listen"?)`, or `--cores: …` for what stood on the command line.
#[derive(Debug, thiserror::Error)]
#[error("{place}{}{problem}", if place.is_empty() { "" } else { ": " })]
pub struct ConfigError {
    place: Place,
    problem: Box<Problem>,
}

impl ConfigError {
    pub(super) fn new(place: Place, problem: Problem) -> Self {
        Self {
            place,
            problem: Box::new(problem),
        }
    }

    /// Whether the fault stood on the command line.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self.place, Place::Flag(_) | Place::LimitFlag(_))
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// What the operator can do about it, where the error alone does not say.
    #[must_use]
    pub fn next_step(&self) -> Option<String> {
        match &*self.problem {
            Problem::Unreadable { error } if error.kind() == io::ErrorKind::NotFound => Some(
                "check the path; without --config the relay runs on loopback with defaults".into(),
            ),
            Problem::NotOpen { .. } => Some(
                "pass --open (in the file: open = true) to relay for anybody, or listen on 127.0.0.1"
                    .into(),
            ),
            Problem::NoTunnelUsers { .. } => Some(
                "say where users are listed: [jproxy] users = \"/etc/midspan/jproxy\"".into(),
            ),
            Problem::TunnelsInsecure { address } => Some(format!(
                "listen at jproxy+tls://{address}, or on 127.0.0.1; where clients can have no TLS, \
                 say [jproxy] insecure = true"
            )),
            Problem::ClientCaOverQuic => Some("leave one of the two out".into()),
            Problem::OtherSockets { .. } => Some(
                "leave it out to serve what systemd has bound, or name the same addresses in the \
                 .socket unit"
                    .into(),
            ),
            Problem::AdminReachable { .. } => Some(
                "listen on 127.0.0.1, and let a proxy that knows its users stand before it".into(),
            ),
            Problem::TooManyCores { allowed, .. } => {
                Some(format!("ask for {} or fewer, or leave it out to use all", allowed.len()))
            }
            Problem::ConnectionsOverDescriptors { needed, .. } => Some(format!(
                "lower it, or raise the descriptor limit: `ulimit -n {needed}`, or LimitNOFILE={needed} in the systemd unit"
            )),
            Problem::KeyHash { maker, .. } => Some(format!("make a key with `{maker}`")),
            Problem::CertificateHash { .. } | Problem::HashOfNothing => Some(
                "the SHA-256 of its public key, where FILE holds the private one: openssl pkey \
                 -in FILE -pubout -outform DER | sha256sum"
                    .into(),
            ),
            Problem::NoCredentials { maker, .. } => Some(format!(
                "make a key with `{maker}`; or, for QUIC alone, a certificate's with \
                 --certificate FILE as well"
            )),
            Problem::CredentialListed { maker, .. } => {
                Some(format!("make another with `{maker}`"))
            }
            Problem::UsersUnreadable { path, error } => Some(match error.kind() {
                io::ErrorKind::NotFound => format!(
                    "write {}: a line NAME:BASE64 for each user, as `printf %s \"$PASSWORD\" | \
                     openssl dgst -sha256 -binary | base64` prints it; then chmod 640",
                    path.display()
                ),
                io::ErrorKind::PermissionDenied => format!(
                    "let whoever the relay runs as read {}: chgrp it, and chmod 640",
                    path.display()
                ),
                _ => "name a file of lines NAME:BASE64, one for each user".into(),
            }),
            Problem::UsersOpen { path, .. } => {
                Some(format!("if nobody else has read it: chmod 640 {}", path.display()))
            }
            Problem::NoSuchUser { path: Some(path), .. } => Some(format!(
                "add the user to {}, or leave the name out here",
                path.display()
            )),
            Problem::NoSuchUser { path: None, line, .. } => {
                Some(format!("say where users are listed: {line}"))
            }
            Problem::TunnelUsers(error) => error.next_step(),
            Problem::UserTwice { .. } => {
                Some("one table has all that a user is to have; leave the name out here".into())
            }
            Problem::BindAddress { .. } => Some(
                "name the address by which visitors' peers reach this host (ip addr)".into(),
            ),
            Problem::BindAddressMapped { ip } => Some(format!("write \"{ip}\"")),
            Problem::Web(error) => error.next_step(),
            Problem::WebTwice => Some("leave one of them out".into()),
            Problem::NoStateDir => {
                Some("pass --state-dir DIR (in the file: state_dir = \"DIR\")".into())
            }
            Problem::NoInstance { .. } => {
                Some("pass --jet-instance HOST (in the file: [jet] instance = \"HOST\")".into())
            }
            _ => None,
        }
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file. `line` and `column` (in characters) count from 1; `key` is
    /// the dotted path, empty where the file is no TOML.
    File {
        path: PathBuf,
        line: usize,
        column: usize,
        key: String,
    },
    /// A file as a whole.
    WholeFile(PathBuf),
    /// On the command line, as `--listen`.
    Flag(&'static str),
    /// On the command line, as `--limit NAME=…`.
    LimitFlag(&'static str),
    /// In a `.socket` unit.
    Systemd,
    /// Nowhere: a default that does not suit this host, or what names its own place.
    Default,
}

impl Place {
    fn is_empty(&self) -> bool {
        *self == Self::Default
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                line,
                column,
                key,
            } => {
                write!(f, "{}:{line}:{column}", path.display())?;
                if key.is_empty() {
                    Ok(())
                } else {
                    write!(f, ": {key}")
                }
            }
            Self::WholeFile(path) => path.display().fmt(f),
            Self::Flag(flag) => f.write_str(flag),
            Self::LimitFlag(name) => write!(f, "--limit {name}"),
            Self::Systemd => f.write_str("systemd"),
            Self::Default => Ok(()),
        }
    }
}

/// Why a line lists no user. Never holds what is kept of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserReason {
    #[error("no colon between name and password")]
    NoColon,
    #[error("no name")]
    NoName,
    #[error("the user is listed twice")]
    Twice,
    #[error(transparent)]
    Password(PasswordDigestError),
}

/// What is wrong; the key and its place are told by [`Place`].
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the configuration: {error}")]
    Unreadable { error: io::Error },
    /// No TOML, or a value of the wrong type or form; in the words of the
    /// parser.
    #[error("{message}")]
    Malformed { message: String },
    /// A value that does not say what its key needs.
    #[error(transparent)]
    Value(ValueError),
    /// A key that means nothing.
    #[error("unknown key \"{key}\" {}", Alternatives { similar, allowed })]
    UnknownKey {
        key: String,
        similar: Option<String>,
        allowed: Vec<String>,
    },
    /// A word that is none of the allowed ones.
    #[error("unknown word \"{word}\" {}", Alternatives { similar, allowed })]
    UnknownWord {
        word: String,
        similar: Option<String>,
        allowed: Vec<String>,
    },
    /// A number outside its range.
    #[error("{value} is outside {min} to {max}")]
    OutOfRange { value: u64, min: u64, max: u64 },
    /// No listener at all.
    #[error("no address to listen on")]
    NoListener,
    /// The same address twice.
    #[error("{address} is listed twice")]
    ListenerTwice { address: ListenAddress },
    /// Certificates by an authority, where they are known by their keys.
    #[error("nobody who comes by quic.listen needs a certificate by an authority")]
    ClientCaOverQuic,
    /// Not what was bound before the process started.
    #[error("systemd has bound {}, and this asks for others", Listed(.given))]
    OtherSockets { given: Vec<Listener> },
    /// Others can reach a listener, and nobody said that they may.
    #[error(
        "{address} can be reached from other hosts, and the relay would serve anybody without asking for credentials"
    )]
    NotOpen { address: ListenAddress },
    /// A listener for jProxy, which has no users.
    #[error("{listener} is for jProxy alone, and jproxy.users is not set")]
    NoTunnelUsers { listener: Listener },
    /// jProxy without TLS where others could look.
    #[error(
        "{address} can be reached from other hosts, and jProxy without TLS keeps nobody from changing \
         what is sent"
    )]
    TunnelsInsecure { address: ListenAddress },
    /// Not the key of an issuer of tokens.
    #[error(transparent)]
    IssuerKey(IssuerError),
    /// Not a network.
    #[error("\"{}\" is not an address or a network, such as 10.0.0.0/8", written.escape_default())]
    Network { written: String },
    /// Operators' pages where others could look.
    #[error("{address} can be reached from other hosts, and nobody is asked who looks")]
    AdminReachable { address: ListenAddress },
    /// Not the URL of a listener.
    #[error(transparent)]
    Url(PublicUrlError),
    /// The same URL twice.
    #[error("{url} is listed twice")]
    UrlTwice { url: PublicUrl },
    /// More URLs than an association may have candidates.
    #[error("{count} URLs are listed; an association has a candidate for each, and {max} at most")]
    TooManyUrls { count: usize, max: usize },
    /// Not the hash of a key; `maker` is the command that makes one.
    #[error("{error}")]
    KeyHash {
        error: KeyHashError,
        maker: &'static str,
    },
    /// The file of users cannot be read.
    #[error("cannot read the file of users {}: {error}", .path.display())]
    UsersUnreadable { path: PathBuf, error: io::Error },
    /// Anybody can read it.
    #[error("the file of users {} can be read by anybody (mode {mode:04o})", .path.display())]
    UsersOpen { path: PathBuf, mode: u32 },
    /// A line of it that lists nobody.
    #[error("line {number}: {reason}")]
    UsersLine { number: usize, reason: UserReason },
    /// Rules for somebody whom nobody could be.
    #[error("there is no user \"{}\"", .name.escape_debug())]
    NoSuchUser {
        name: String,
        path: Option<PathBuf>,
        line: &'static str,
    },
    /// A directory that lists no users.
    #[error(transparent)]
    TunnelUsers(TunnelUsersError),
    /// Two tables of rules for one user.
    #[error("the user \"{}\" has rules already", .name.escape_debug())]
    UserTwice { name: String },
    /// Rules for nobody.
    #[error("no user is named")]
    NoUser,
    /// No address to which others could connect.
    #[error("\"{}\" is no address to connect to, such as 203.0.113.7", .written.escape_default())]
    BindAddress { written: String },
    /// An address of IPv4 in the form of IPv6.
    #[error("it is {ip}, an address of IPv4, mapped into IPv6")]
    BindAddressMapped { ip: IpAddr },
    /// Visitors are told one address.
    #[error("{ip} is the second of its family; somebody is awaited at one of each")]
    BindFamilyTwice { ip: IpAddr },
    /// Neither `allow` nor `deny`.
    #[error("\"{}\" is no rule, such as \"deny *:25\" or \"allow 10.0.0.0/8\"", .written.escape_debug())]
    Rule { written: String },
    /// No destination.
    #[error(transparent)]
    Pattern(PatternError),
    /// Not another site.
    #[error(transparent)]
    Origin(OriginError),
    /// Pages, and another site for all that is asked for.
    #[error("root is given as well, and nothing would be left of it")]
    WebTwice,
    /// A tree of files that cannot be served.
    #[error(transparent)]
    Web(TreeError),
    /// Two keys of one name, or two names for one key.
    #[error("the key \"{name}\" is listed twice, by its name or by its hash")]
    KeyTwice { name: String },
    /// Two servers of one name, or two clients.
    #[error("the {role} \"{name}\" is listed twice")]
    NameListed { role: &'static str, name: String },
    /// Not what a certificate is known by.
    #[error("{error}")]
    CertificateHash { error: FingerprintError },
    /// What is known by it is no bytes at all.
    #[error("that is the SHA-256 of nothing: the command before it failed")]
    HashOfNothing,
    /// Nothing that could prove who it is.
    #[error("the {role} \"{name}\" has neither sha256 nor certificate_sha256")]
    NoCredentials {
        role: &'static str,
        name: String,
        maker: &'static str,
    },
    /// The number of somebody else.
    #[error("legacy_id {number} is that of the {role} \"{holder}\" already")]
    NumberListed {
        number: NonZeroU8,
        role: &'static str,
        holder: String,
    },
    /// The key, or the certificate, of somebody else.
    #[error("the {what} of \"{name}\" is listed already, as that of the {role} \"{holder}\"")]
    CredentialListed {
        what: &'static str,
        name: String,
        role: &'static str,
        holder: String,
        maker: &'static str,
    },
    /// Not the name of a server, a port or a client.
    #[error(transparent)]
    Name(NameError),
    /// A key for nothing.
    #[error("the key \"{name}\" is good for nothing; scopes are create, read and terminate")]
    NoScope { name: String },
    /// Not the URL of a STUN or TURN server.
    #[error("\"{}\" is not a URL such as stun:stun.example or turn:turn.example:3478", .written.escape_default())]
    Stun { written: String },
    /// More shards than cores.
    #[error("{asked} cores asked for, but this process may use {} ({})", .allowed.len(), Listed(.allowed))]
    TooManyCores { asked: usize, allowed: Vec<usize> },
    /// A core outside this process's affinity.
    #[error("this process may not use core {core}; it may use {}", Listed(.allowed))]
    CoreNotAllowed { core: usize, allowed: Vec<usize> },
    /// More connections than descriptors.
    #[error(
        "{connections} connections need {needed} descriptors with the pipes and reserve, but this process may open {descriptors}"
    )]
    ConnectionsOverDescriptors {
        connections: u64,
        needed: u64,
        descriptors: u64,
    },
    /// A limit that must not exceed another.
    #[error("{value} exceeds {other} = {other_value}")]
    OverOther {
        value: u64,
        other: &'static str,
        other_value: u64,
    },
    /// A path that would depend on where the program was started.
    #[error("\"{}\" is not an absolute path", .path.display())]
    RelativePath { path: PathBuf },
    /// No directory for state can be found.
    #[error("nowhere to keep state: none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set")]
    NoStateDir,
    /// The host's own name is not one that peers could use.
    #[error("this host's name \"{}\" is not one that peers can be told", .hostname.escape_default())]
    NoInstance { hostname: String },
}

/// Several things for people: `0, 2, 3`.
struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The one that was probably meant, or all.
struct Alternatives<'a> {
    similar: &'a Option<String>,
    allowed: &'a [String],
}

impl fmt::Display for Alternatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.similar {
            Some(similar) => write!(f, "(did you mean \"{similar}\"?)"),
            None => write!(f, "(allowed: {})", self.allowed.join(", ")),
        }
    }
}

/// The allowed word that `written` is probably a slip of.
pub(super) fn similar<'a>(
    written: &str,
    allowed: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance_max = (written.chars().count() / 2).min(3);
    allowed
        .into_iter()
        .map(|word| (edit_distance(written, word), word))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Insertions, deletions and substitutions that turn `a` into `b`
/// (Levenshtein), by one row of the usual table.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b_char) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a_char != *b_char);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let allowed = ["listen", "open", "cores", "limits", "drain_timeout"];
        let check = |written: &str, expected: Option<&str>| {
            assert_eq!(similar(written, allowed), expected, "{written}");
        };
        check("lsten", Some("listen"));
        check("core", Some("cores"));
        check("limit", Some("limits"));
        check("drain-timeout", Some("drain_timeout"));
        check("opne", Some("open"));
        check("backlog", None);
        check("", None);
    }

    #[test]
    fn edit_distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
        }
    }
}
