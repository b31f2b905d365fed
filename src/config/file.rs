//! The configuration file as written: which keys there are and of what type.
//!
//! TOML 1.0, read by the `toml` crate. Its errors are turned into ours here,
//! so that each names file, line, column and the whole key. What a value means
//! together with others is decided in [`super::settings`].

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::similar;
use super::forwarding::WrittenPtth;
use super::jproxy::WrittenJproxy;
use super::limits::WrittenLimits;
use super::quic_settings::WrittenQuic;
use super::web::WrittenWeb;
use super::websocks::{WrittenEgress, WrittenWebsocks};
use super::{
    ConfigError, CoreChoice, DataPlane, Instance, JetV1, LogFormat, LogLevel, Period, Place,
    Problem,
};
use crate::access::Scope;

/// A parsed file, with its text to find places in.
#[derive(Debug)]
pub struct ConfigFile {
    source: Source,
    written: Written,
}

impl ConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no TOML, or holds a key or value that means
    /// nothing.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(
                Place::WholeFile(path.to_owned()),
                Problem::Unreadable { error },
            )
        })?;
        Self::parse(path, text)
    }

    /// Parses `text`, which errors call `path`.
    ///
    /// # Errors
    ///
    /// It is no TOML, or holds a key or value that means nothing.
    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let source = Source {
            path: path.to_owned(),
            text,
        };
        match toml::from_str(&source.text) {
            Ok(written) => Ok(Self { source, written }),
            Err(error) => Err(source.explain(&error)),
        }
    }

    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    /// Where `value` was written.
    pub(super) fn place<T>(&self, value: &Spanned<T>) -> Place {
        self.source.place(value.span().start)
    }
}

/// The keys of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) open: Option<bool>,
    pub(super) admin: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) proxy_protocol_from: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) forwarded_for_from: Vec<Spanned<String>>,
    pub(super) create_on_accept: Option<bool>,
    pub(super) cores: Option<Spanned<CoreChoice>>,
    pub(super) data_plane: Option<DataPlane>,
    pub(super) drain_timeout: Option<Period>,
    pub(super) spin_us: Option<Spanned<u64>>,
    pub(super) state_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) log: WrittenLog,
    #[serde(default)]
    pub(super) jet: WrittenJet,
    #[serde(default)]
    pub(super) limits: WrittenLimits,
    #[serde(default)]
    pub(super) access: WrittenAccess,
    #[serde(default)]
    pub(super) tls: WrittenTls,
    #[serde(default)]
    pub(super) websocks: WrittenWebsocks,
    #[serde(default)]
    pub(super) egress: WrittenEgress,
    #[serde(default)]
    pub(super) jproxy: WrittenJproxy,
    #[serde(default)]
    pub(super) ptth: WrittenPtth,
    #[serde(default)]
    pub(super) quic: WrittenQuic,
    #[serde(default)]
    pub(super) web: WrittenWeb,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenLog {
    pub(super) format: Option<LogFormat>,
    pub(super) level: Option<LogLevel>,
}

/// `[jet]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenJet {
    pub(super) v1: Option<JetV1>,
    pub(super) instance: Option<Instance>,
    pub(super) urls: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub(super) stun: Vec<Spanned<String>>,
}

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTls {
    #[serde(default)]
    pub(super) certificates: Vec<WrittenCertificate>,
    pub(super) client_ca: Option<Spanned<PathBuf>>,
}

/// `[[tls.certificates]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenCertificate {
    pub(super) chain: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
}

/// `[access]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAccess {
    #[serde(default)]
    pub(super) keys: Vec<WrittenKey>,
    #[serde(default)]
    pub(super) issuers: Vec<WrittenIssuer>,
}

/// `[[access.issuers]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenIssuer {
    pub(super) name: Spanned<String>,
    pub(super) public_key: Spanned<PathBuf>,
    pub(super) single_use: Option<bool>,
}

/// `[[access.keys]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenKey {
    pub(super) name: Spanned<String>,
    pub(super) sha256: Spanned<String>,
    pub(super) scopes: Spanned<Vec<Scope>>,
}

/// A file's text and name: turns offsets into places.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let offset = error.span().map_or(0, |span| span.start);
        let message = error.message();
        let mut words = backticked(message).map(str::to_owned);
        if message.starts_with("unknown field ") {
            let last = words.next().unwrap_or_default();
            let allowed: Vec<String> = words.collect();
            let similar = similar(&last, allowed.iter().map(String::as_str)).map(str::to_owned);
            let key = Some(self.key_at(offset))
                .filter(|key| !key.is_empty())
                .unwrap_or(last);
            let problem = Problem::UnknownKey {
                key,
                similar,
                allowed,
            };
            // The problem tells the key itself.
            return ConfigError::new(self.place_of(offset, String::new()), problem);
        }
        let problem = if message.starts_with("unknown variant ") {
            let word = words.next().unwrap_or_default();
            let allowed: Vec<String> = words.collect();
            let similar = similar(&word, allowed.iter().map(String::as_str)).map(str::to_owned);
            Problem::UnknownWord {
                word,
                similar,
                allowed,
            }
        } else {
            Problem::Malformed {
                message: for_people(message),
            }
        };
        ConfigError::new(self.place(offset), problem)
    }

    fn place(&self, offset: usize) -> Place {
        self.place_of(offset, self.key_at(offset))
    }

    fn place_of(&self, offset: usize, key: String) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::File {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key,
        }
    }

    /// The dotted path of the key at, or owning the value at, `offset`. Empty
    /// where there is none, as in a file that is no TOML.
    fn key_at(&self, offset: usize) -> String {
        let Ok(root) = DeTable::parse(&self.text) else {
            return String::new();
        };
        let mut path = Vec::new();
        let mut table = root.get_ref();
        loop {
            let owner = table
                .iter()
                .find(|(key, value)| key.span().contains(&offset) || covers(value, offset));
            let Some((key, value)) = owner else { break };
            path.push(key.get_ref().to_string());
            match value.get_ref() {
                DeValue::Table(inner) if !key.span().contains(&offset) => table = inner,
                _ => break,
            }
        }
        path.join(".")
    }
}

/// Whether `value`, or anything in it, stands at `offset`. A `[table]` spans
/// no more than its header, so its content is asked too.
fn covers(value: &Spanned<DeValue<'_>>, offset: usize) -> bool {
    let span = value.span();
    if span.contains(&offset) || span.start == offset {
        return true;
    }
    match value.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .any(|(key, value)| key.span().contains(&offset) || covers(value, offset)),
        _ => false,
    }
}

/// The words that serde's messages put between backticks.
fn backticked(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// serde's words for types, in an operator's.
fn for_people(message: &str) -> String {
    // Of a table it names our type, and takes a list for one that is too short.
    if let Some((found, _)) = message.split_once(", expected struct ") {
        let is_list = found.starts_with("invalid length ");
        let found = if is_list { "invalid type: list" } else { found };
        return format!("{found}, expected a table");
    }
    let words = [
        ("invalid type: sequence", "invalid type: list"),
        ("expected a sequence", "expected a list"),
        ("expected a boolean", "expected true or false"),
        ("expected path string", "expected a path in quotes"),
        ("expected u64", "expected a whole number, 0 or more"),
    ];
    words
        .iter()
        .fold(message.to_owned(), |message, (theirs, ours)| {
            message.replace(theirs, ours)
        })
}
