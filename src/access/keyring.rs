//! The keys that a relay knows, and what each of them is good for.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::api_key::{KeyHash, Presented};
use super::spent::{SingleUse, TokenId};
use super::token::{self, Issuer};

/// What a key may be good for; written in lower case, in the file and on the command
/// line alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To create associations, and to gather their candidates.
    Create,
    /// To list associations and sessions.
    Read,
    /// To delete associations, and to end sessions.
    Terminate,
}

/// A key that the relay knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Whose it is, for people.
    pub name: String,
    /// What is kept of it.
    pub hash: KeyHash,
    /// What it is good for.
    pub scopes: Vec<Scope>,
}

/// All keys of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<KeyEntry>,
    issuers: Vec<Issuer>,
}

/// What a peer may do that shows a key or a token. A key alone bounds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant<'ring> {
    /// Whose key it is, or who issued the token; for people.
    pub bearer: Option<&'ring str>,
    /// The one association that it is for.
    pub association: Option<Uuid>,
    /// How long each session of the association may last.
    pub session_limit: Option<Duration>,
    /// That it serves once: it has to be spent before anything is done.
    pub single_use: Option<SingleUse>,
}

/// Why a peer may not do what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It shows no key.
    #[error("a key is needed")]
    NoKey,
    /// Nobody has this key, or not any more.
    #[error("the key is unknown")]
    UnknownKey,
    /// The key is good for something else.
    #[error("the key is not good for this")]
    OutOfScope,
    /// The token is good no more, or not yet.
    #[error("the token is good at another time")]
    Expired,
    /// The token is good for another association.
    #[error("the token is good for another association")]
    OtherAssociation,
    /// The token serves once, and was used.
    #[error("the token was used")]
    Spent,
    /// More tokens were used than are remembered.
    #[error("too many tokens were used")]
    TooManySpent,
    /// It asks more often than it may.
    #[error("too many requests")]
    TooFast,
}

impl Grant<'_> {
    /// Names the bearer.
    #[must_use]
    pub fn bearer_id(&self) -> Option<TokenId> {
        self.bearer.map(|bearer| TokenId::new(bearer, ""))
    }
}

impl Scope {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Terminate => "terminate",
        }
    }
}

impl Keyring {
    /// A ring of these keys, and of what these issue.
    #[must_use]
    pub const fn new(keys: Vec<KeyEntry>, issuers: Vec<Issuer>) -> Self {
        Self { keys, issuers }
    }

    /// Whether there is no key at all, and nobody to issue any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.issuers.is_empty()
    }

    /// Everyone whose tokens are good here.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> &[KeyEntry] {
        &self.keys
    }

    /// Whether a peer shows a key, or at `now` since 1970 a token, that is good for
    /// `scope` and for the association that it asks about, and what else bounds it. How
    /// long this takes does not depend on the key.
    ///
    /// # Errors
    ///
    /// Why the peer may not do it.
    pub fn authorize(
        &self,
        presented: Option<&Presented>,
        scope: Scope,
        association: Option<Uuid>,
        now: Duration,
    ) -> Result<Grant<'_>, Denied> {
        let presented = presented.ok_or(Denied::NoKey)?;
        if token::is_token(presented.as_str()) {
            let token = presented.as_str();
            return token::authorize(&self.issuers, token, scope, association, now);
        }
        let hash = presented.hash();
        let mut found = None;
        for key in &self.keys {
            if key.hash == hash {
                found = Some(key);
            }
        }
        let key = found.ok_or(Denied::UnknownKey)?;
        if key.scopes.contains(&scope) {
            Ok(Grant {
                bearer: Some(&key.name),
                ..Grant::default()
            })
        } else {
            Err(Denied::OutOfScope)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, key: &str, scopes: &[Scope]) -> KeyEntry {
        KeyEntry {
            name: name.to_owned(),
            hash: KeyHash::of(key),
            scopes: scopes.to_vec(),
        }
    }

    #[test]
    fn a_key_is_good_for_its_scopes_alone() {
        let keys = vec![
            entry("signalling", "one", &[Scope::Create]),
            entry("operator", "two", &[Scope::Read, Scope::Terminate]),
        ];
        let ring = Keyring::new(keys, Vec::new());
        let check = |key: Option<&str>, scope| {
            let presented = key.map(Presented::new);
            let grant = ring.authorize(presented.as_ref(), scope, None, Duration::ZERO)?;
            assert_eq!((grant.association, grant.single_use), (None, None));
            Ok(grant.bearer)
        };
        assert_eq!(check(Some("one"), Scope::Create), Ok(Some("signalling")));
        assert_eq!(check(Some("two"), Scope::Terminate), Ok(Some("operator")));
        assert_eq!(check(Some("one"), Scope::Read), Err(Denied::OutOfScope));
        assert_eq!(check(Some("two"), Scope::Create), Err(Denied::OutOfScope));
        assert_eq!(check(Some("three"), Scope::Create), Err(Denied::UnknownKey));
        assert_eq!(check(Some(""), Scope::Create), Err(Denied::UnknownKey));
        assert_eq!(check(None, Scope::Create), Err(Denied::NoKey));
        let empty = Keyring::default();
        assert!(empty.is_empty() && !ring.is_empty());
        assert_eq!(
            empty.authorize(
                Some(&Presented::new("one")),
                Scope::Create,
                None,
                Duration::ZERO
            ),
            Err(Denied::UnknownKey)
        );
    }
}
