//! The keys that a relay knows, and what each of them is good for.

use serde::Deserialize;

use super::api_key::{KeyHash, Presented};

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
    /// A ring of these keys.
    #[must_use]
    pub const fn new(keys: Vec<KeyEntry>) -> Self {
        Self { keys }
    }

    /// Whether there is no key at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> &[KeyEntry] {
        &self.keys
    }

    /// Whose key a peer shows, if it is good for `scope`. How long this takes does
    /// not depend on the key.
    ///
    /// # Errors
    ///
    /// Why the peer may not do it.
    pub fn authorize(
        &self,
        presented: Option<&Presented>,
        scope: Scope,
    ) -> Result<&KeyEntry, Denied> {
        let hash = presented.ok_or(Denied::NoKey)?.hash();
        let mut found = None;
        for key in &self.keys {
            if key.hash == hash {
                found = Some(key);
            }
        }
        let key = found.ok_or(Denied::UnknownKey)?;
        if key.scopes.contains(&scope) {
            Ok(key)
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
        let ring = Keyring::new(vec![
            entry("signalling", "one", &[Scope::Create]),
            entry("operator", "two", &[Scope::Read, Scope::Terminate]),
        ]);
        let check = |key: Option<&str>, scope| {
            let presented = key.map(Presented::new);
            let entry = ring.authorize(presented.as_ref(), scope);
            entry.map(|entry| entry.name.as_str())
        };
        assert_eq!(check(Some("one"), Scope::Create), Ok("signalling"));
        assert_eq!(check(Some("two"), Scope::Terminate), Ok("operator"));
        assert_eq!(check(Some("one"), Scope::Read), Err(Denied::OutOfScope));
        assert_eq!(check(Some("two"), Scope::Create), Err(Denied::OutOfScope));
        assert_eq!(check(Some("three"), Scope::Create), Err(Denied::UnknownKey));
        assert_eq!(check(Some(""), Scope::Create), Err(Denied::UnknownKey));
        assert_eq!(check(None, Scope::Create), Err(Denied::NoKey));
        let empty = Keyring::default();
        assert!(empty.is_empty() && !ring.is_empty());
        assert_eq!(
            empty.authorize(Some(&Presented::new("one")), Scope::Create),
            Err(Denied::UnknownKey)
        );
    }
}
