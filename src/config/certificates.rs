//! The certificates of the file: `[tls]`.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::file::ConfigFile;
use super::{ConfigError, Place, Problem};

/// Who the relay is to those who come over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates with their keys; the first is for clients that name no other's
    /// host. Without any the relay makes one that vouches for itself.
    pub certificates: Vec<CertificateFiles>,
    /// Certificates of which a client has to show one's.
    pub client_ca: Option<PathBuf>,
}

/// A chain and a key, in PEM; absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, its own certificate first.
    pub chain: PathBuf,
    /// The key of that one.
    pub key: PathBuf,
}

/// As the file writes it.
impl fmt::Display for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
        if let Some(path) = &self.client_ca {
            writeln!(f, "\n[tls]\nclient_ca = {}", text(path))?;
        }
        for CertificateFiles { chain, key } in &self.certificates {
            let (chain, key) = (text(chain), text(key));
            writeln!(f, "\n[[tls.certificates]]\nchain = {chain}\nkey = {key}")?;
        }
        Ok(())
    }
}

impl CertificateFiles {
    /// The same, paths that are relative being so to `directory`.
    #[must_use]
    pub fn under(self, directory: &Path) -> Self {
        Self {
            chain: directory.join(self.chain),
            key: directory.join(self.key),
        }
    }
}

/// What `--tls-certificate` and `--tls-key`, or else the file, come to.
pub(super) fn tls(
    flags: Option<CertificateFiles>,
    file: Option<&ConfigFile>,
) -> Result<TlsSettings, ConfigError> {
    let mut settings = TlsSettings::default();
    if let Some(file) = file {
        let written = &file.written().tls;
        for certificate in &written.certificates {
            settings.certificates.push(CertificateFiles {
                chain: absolute(file, &certificate.chain)?,
                key: absolute(file, &certificate.key)?,
            });
        }
        let client_ca = written.client_ca.as_ref();
        settings.client_ca = client_ca.map(|path| absolute(file, path)).transpose()?;
    }
    if let Some(files) = flags {
        settings.certificates = vec![files];
    }
    Ok(settings)
}

fn absolute(file: &ConfigFile, written: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let path = written.get_ref();
    if path.is_absolute() {
        return Ok(path.clone());
    }
    let problem = Problem::RelativePath { path: path.clone() };
    let place: Place = file.place(written);
    Err(ConfigError::new(place, problem))
}
