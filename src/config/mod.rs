//! The configuration: as written ([`mod@file`] and the command line's [`Flags`]),
//! and as resolved, valid [`settings`] with every default filled in.
//!
//! The rule for what belongs where: a type with a `FromStr` here turns one
//! written value into a value; [`settings`] holds what needs more than one
//! value, or a fact about the host, to decide. Nothing here reads the
//! environment, the clock or the kernel; the command line gathers
//! [`settings::HostFacts`] and the file's text.
//!
//! Left out: who may do what (that is `access`), and credentials: of keys only the
//! hashes stand in the file.
//!
//! [`Flags`]: settings::Flags

pub mod certificates;
mod cores;
mod error;
pub mod file;
mod forwarding;
pub mod jproxy;
pub mod keys;
pub mod limits;
mod listener;
mod listening;
mod pinned;
pub mod quic_settings;
mod resolve;
pub mod settings;
pub mod shell_word;
mod tunnel_users;
mod urls;
mod user_rules;
mod value;
pub mod web;
mod web_root;
pub mod websocks;

use serde::Deserialize;

pub use cores::CoreChoice;
pub use error::{ConfigError, Place, Problem};
pub use listener::Listener;
pub use listening::GivenSockets;
pub use pinned::Pinned;
pub use tunnel_users::{TunnelUsersError, WrongFile, tunnel_user_of};
pub use urls::URLS_MAX;
pub use value::{Instance, ListenAddress, Period, ValueError};
pub use web_root::TreeError;

/// Names a set of words that are written in lower case, in the file and on the
/// command line alike.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word as it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

/// How the bytes of a pair are moved; chosen once per pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DataPlane {
    /// What measured best: copy while chunks are small, splice while they are
    /// large.
    #[default]
    Auto,
    /// `recv` and `send` through one scratch buffer of the shard.
    Copy,
    /// `splice(2)` through a pooled pipe, always.
    Splice,
    /// The ring's own operations: multishot receive into provided buffers and
    /// sends from the same buffers.
    Ring,
}

words!(DataPlane { Auto = "auto", Copy = "copy", Splice = "splice", Ring = "ring" });

/// How a log line is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people: time, level, a phrase, `field=value`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

words!(LogFormat { Text = "text", Json = "json" });

/// The least important line that is still logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Faults of this program and of its host.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And rare events of its life, and one line for each session.
    #[default]
    Info,
    /// And what peers did wrong.
    Debug,
}

words!(LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug" });

/// Whether the relay invents the association of an acceptor that names none, as
/// JET's first version has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum JetV1 {
    /// Invent it.
    #[default]
    Allow,
    /// Refuse the acceptor.
    Deny,
}

words!(JetV1 { Allow = "allow", Deny = "deny" });

/// How a sender of QUIC finds out how much it may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// By the path's rate and delay, in its first version: experimental.
    Bbr,
    /// RFC 9002 §7.
    NewReno,
}

words!(Congestion { Cubic = "cubic", Bbr = "bbr", NewReno = "newreno" });
