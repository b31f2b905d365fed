//! The keys of the file, `[[access.keys]]`, and who issues tokens,
//! `[[access.issuers]]`.

use std::path::PathBuf;
use std::{fmt, fs};

use super::file::ConfigFile;
use super::{ConfigError, Place, Problem};
use crate::access::{Issuer, KeyEntry, KeyHash, Keyring};

/// As the file writes it.
impl fmt::Display for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hash, scopes } = self;
        let name = toml::Value::String(name.clone());
        let scopes: Vec<_> = scopes
            .iter()
            .map(|scope| format!("\"{}\"", scope.as_str()))
            .collect();
        let scopes = scopes.join(", ");
        writeln!(
            f,
            "[[access.keys]]\nname = {name}\nsha256 = \"{hash}\"\nscopes = [{scopes}]"
        )
    }
}

/// As the file writes it.
impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = toml::Value::String(self.name.clone());
        let path = toml::Value::String(self.path.to_string_lossy().into_owned());
        writeln!(f, "[[access.issuers]]\nname = {name}\npublic_key = {path}")?;
        writeln!(f, "single_use = {}", self.single_use)
    }
}

/// The same keys, those of issuers read from their files again. An issuer whose file is gone, or
/// holds no key, stays as it is, and what is wrong is told.
#[must_use]
pub fn read_again(keyring: &Keyring) -> (Keyring, Vec<ConfigError>) {
    let mut wrong = Vec::new();
    let issuer = |known: &Issuer| {
        let (name, path) = (known.name.clone(), known.path.clone());
        issuer(name, path, known.single_use).unwrap_or_else(|problem| {
            let place = Place::WholeFile(known.path.clone());
            wrong.push(ConfigError::new(place, problem));
            known.clone()
        })
    };
    let issuers = keyring.issuers().iter().map(issuer).collect();
    (Keyring::new(keyring.keys().to_vec(), issuers), wrong)
}

/// The issuer whose key is in this file.
fn issuer(name: String, path: PathBuf, single_use: bool) -> Result<Issuer, Problem> {
    let pem = fs::read(&path).map_err(|error| Problem::Unreadable { error })?;
    Issuer::new(name, path, pem, single_use).map_err(Problem::IssuerKey)
}

/// The keys that the file lists.
pub(super) fn keyring(file: Option<&ConfigFile>) -> Result<Keyring, ConfigError> {
    let Some(file) = file else {
        return Ok(Keyring::default());
    };
    let mut keys: Vec<KeyEntry> = Vec::new();
    for written in &file.written().access.keys {
        let name = written.name.get_ref().clone();
        let hash: KeyHash = written.sha256.get_ref().parse().map_err(|error| {
            let maker = "midspan key NAME";
            let problem = Problem::KeyHash { error, maker };
            ConfigError::new(file.place(&written.sha256), problem)
        })?;
        if keys.iter().any(|key| key.name == name || key.hash == hash) {
            let problem = Problem::KeyTwice { name };
            return Err(ConfigError::new(file.place(&written.name), problem));
        }
        let scopes = written.scopes.get_ref().clone();
        if scopes.is_empty() {
            let problem = Problem::NoScope { name };
            return Err(ConfigError::new(file.place(&written.scopes), problem));
        }
        keys.push(KeyEntry { name, hash, scopes });
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    for written in &file.written().access.issuers {
        let name = written.name.get_ref().clone();
        if issuers.iter().any(|issuer| issuer.name == name) {
            let problem = Problem::KeyTwice { name };
            return Err(ConfigError::new(file.place(&written.name), problem));
        }
        let wrong = |problem| ConfigError::new(file.place(&written.public_key), problem);
        let path = written.public_key.get_ref();
        if !path.is_absolute() {
            return Err(wrong(Problem::RelativePath { path: path.clone() }));
        }
        let single_use = written.single_use.unwrap_or(true);
        issuers.push(issuer(name, path.clone(), single_use).map_err(wrong)?);
    }
    Ok(Keyring::new(keys, issuers))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::KeyPair;

    use super::*;

    #[test]
    fn an_issuer_whose_file_is_wrong_keeps_no_other_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &Path| {
            let key = KeyPair::generate().expect("a key");
            fs::write(path, key.public_key_pem()).expect("written");
        };
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        write(&one);
        write(&other);
        let read = |path: &PathBuf| issuer(path.display().to_string(), path.clone(), true);
        let issuers = [&one, &other].map(|path| read(path).expect("a key"));
        let before = Keyring::new(Vec::new(), issuers.to_vec());
        assert_eq!(read_again(&before).0, before);

        fs::write(&one, "no key").expect("written");
        write(&other);
        let (fresh, wrong) = read_again(&before);
        let renewed = read(&other).expect("a key");
        assert_ne!(renewed, issuers[1]);
        assert_eq!(fresh.issuers(), [issuers[0].clone(), renewed]);
        let [error] = &*wrong else {
            panic!("{wrong:?}")
        };
        assert!(error.to_string().contains(&one.display().to_string()));
        write(&one);
        let (fresh, wrong) = read_again(&fresh);
        assert_eq!(fresh.issuers()[0], read(&one).expect("a key"));
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
