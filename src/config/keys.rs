//! The keys of the file: `[[access.keys]]`.

use super::file::ConfigFile;
use super::{ConfigError, Problem};
use crate::access::{KeyEntry, KeyHash, Keyring, Scope};

/// The keys that the file lists.
pub(super) fn keyring(file: Option<&ConfigFile>) -> Result<Keyring, ConfigError> {
    let Some(file) = file else {
        return Ok(Keyring::default());
    };
    let mut keys: Vec<KeyEntry> = Vec::new();
    for written in &file.written().access.keys {
        let name = written.name.get_ref().clone();
        let hash: KeyHash = written.sha256.get_ref().parse().map_err(|error| {
            ConfigError::new(file.place(&written.sha256), Problem::KeyHash(error))
        })?;
        if keys.iter().any(|key| key.name == name || key.hash == hash) {
            let problem = Problem::KeyTwice { name };
            return Err(ConfigError::new(file.place(&written.name), problem));
        }
        let scopes: Vec<Scope> = written
            .scopes
            .get_ref()
            .iter()
            .map(|scope| Scope::from(*scope))
            .collect();
        if scopes.is_empty() {
            let problem = Problem::NoScope { name };
            return Err(ConfigError::new(file.place(&written.scopes), problem));
        }
        keys.push(KeyEntry { name, hash, scopes });
    }
    Ok(Keyring::new(keys))
}
