//! Where the relay's certificates come from, and what becomes of them when their
//! files change.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{RootCertStore, ServerConfig};
use tracing::{info, warn};

use super::state_dir::StateDir;
use crate::config::settings::RelaySettings;
use crate::config::tls::CertificateFiles;
use crate::tls::identity::{Identity, IdentityError};
use crate::tls::server::{self, ClientCertificates, Identities};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The relay's identities: those of its files, or one that is made once and kept.
///
/// # Errors
///
/// Files that cannot be read or do not belong together.
pub(super) fn identities(
    settings: &RelaySettings,
    state: &StateDir,
) -> anyhow::Result<Arc<Identities>> {
    let files = &settings.tls.certificates;
    if !files.is_empty() {
        return Ok(Identities::new(read(files)?));
    }
    let name = settings.jet.instance.host();
    let pem = state.kept("tls-made-here.pem", || {
        // What is no name for a certificate, such as an address in brackets, has no
        // other meaning for those who pin it.
        let made = Identity::make_pem(name).or_else(|_| Identity::make_pem("localhost"));
        Ok(made?.into_bytes())
    })?;
    let identity = Identity::parse(&pem, Path::new("the state directory's tls-made-here.pem"))?;
    Ok(Identities::new(vec![identity]))
}

/// What the relay asks of those who come over TLS.
///
/// # Errors
///
/// Certificates of clients that cannot be read.
pub(super) fn server_config(
    settings: &RelaySettings,
    identities: &Arc<Identities>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let clients = match &settings.tls.client_ca {
        None => ClientCertificates::NotAsked,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let unreadable = || format!("cannot read {}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(unreadable)? {
                roots
                    .add(certificate.with_context(unreadable)?)
                    .with_context(|| format!("{} holds what is no authority", path.display()))?;
            }
            ClientCertificates::Required(Arc::new(roots))
        }
    };
    Ok(server::server_config(Arc::clone(identities), &clients)?)
}

/// The fingerprint to tell, of a certificate that nobody vouches for.
pub(super) fn fingerprint(settings: &RelaySettings, identities: &Identities) -> Option<String> {
    let is_made_here = settings.tls.certificates.is_empty();
    let identities = identities.current();
    let first = identities.first().filter(|_| is_made_here)?;
    Some(first.fingerprint().to_string())
}

/// Looks at the files as long as the process lives, and takes what has changed.
pub(super) fn watch(files: Vec<CertificateFiles>, identities: Arc<Identities>) {
    if files.is_empty() {
        return;
    }
    let look = move || {
        let mut seen = stamps(&files);
        loop {
            thread::sleep(LOOK_INTERVAL);
            let now = stamps(&files);
            if now == seen {
                continue;
            }
            // Files that are half written are looked at again when they are whole.
            seen = now;
            match read(&files) {
                Ok(fresh) => {
                    info!(certificates = fresh.len(), "certificates changed, taken");
                    identities.replace(fresh);
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    warn!(
                        error = format!("{error:#}"),
                        "certificates changed, but are not taken; those before stay"
                    );
                }
            }
        }
    };
    let spawned = thread::Builder::new()
        .name("certificates".to_owned())
        .spawn(look);
    if let Err(error) = spawned {
        warn!(%error, "certificates are not watched: restart the relay when they change");
    }
}

fn read(files: &[CertificateFiles]) -> Result<Vec<Identity>, IdentityError> {
    let read = |files: &CertificateFiles| Identity::read(&files.chain, &files.key);
    files.iter().map(read).collect()
}

/// What changes when a file does, links followed.
fn stamps(files: &[CertificateFiles]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let both = |files: &CertificateFiles| [stamp(&files.chain), stamp(&files.key)];
    files.iter().flat_map(both).collect()
}
