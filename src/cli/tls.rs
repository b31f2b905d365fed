//! Where the relay's certificates come from.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{RootCertStore, ServerConfig};

use super::Advise;
use super::state_dir::StateDir;
use crate::access::Fingerprint;
use crate::config::certificates::CertificateFiles;
use crate::config::settings::RelaySettings;
use crate::config::shell_word::quoted_path;
use crate::protocol::ptth_quic::ALPN;
use crate::tls::identity::Identity;
use crate::tls::server::{ClientCertificates, Tickets, quic_server_config, server_config};

/// What comes of certificates.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) certificates: Certificates,
    pub(super) config: Arc<ServerConfig>,
    /// For those who come by QUIC.
    pub(super) quic: Arc<ServerConfig>,
}

/// The certificates of settings, as they were read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Certificates {
    /// One for each entry, or the one that is made here.
    identities: Vec<Identity>,
    /// Those who vouch for clients, where these are asked for certificates.
    authorities: Option<Vec<TrustAnchor<'static>>>,
    /// Of a certificate that was made here, and that nobody vouches for.
    pub(super) fingerprint: Option<Fingerprint>,
}

impl Certificates {
    /// Reads the certificates of the settings, or the one that is made once and kept.
    ///
    /// # Errors
    ///
    /// Files that cannot be read or do not belong together.
    pub(super) fn read(settings: &RelaySettings, state: &StateDir) -> anyhow::Result<Self> {
        let files = &settings.tls.certificates;
        let (identities, fingerprint) = if files.is_empty() {
            let identity = made_here(settings, state)?;
            let fingerprint = identity.fingerprint();
            (vec![identity], Some(fingerprint))
        } else {
            (files.iter().map(read).collect::<Result<_, _>>()?, None)
        };
        let authorities = settings.tls.client_ca.as_deref().map(authorities);
        Ok(Self {
            identities,
            authorities: authorities.transpose()?,
            fingerprint,
        })
    }

    /// The same, of the same settings, with files read again. What is wrong with an entry's is
    /// told, and the entry stays as it is.
    pub(super) fn read_again(&self, settings: &RelaySettings) -> (Self, Vec<anyhow::Error>) {
        let (mut fresh, mut wrong) = (self.clone(), Vec::new());
        // One that is made here has no entry, and no file that changes.
        for (identity, files) in fresh.identities.iter_mut().zip(&settings.tls.certificates) {
            match read(files) {
                Ok(renewed) => *identity = renewed,
                Err(error) => wrong.push(error),
            }
        }
        match settings.tls.client_ca.as_deref().map(authorities) {
            None => {}
            Some(Ok(renewed)) => fresh.authorities = Some(renewed),
            Some(Err(error)) => wrong.push(error),
        }
        (fresh, wrong)
    }

    /// Whether clients have to show certificates of their own.
    pub(super) const fn asks_clients(&self) -> bool {
        self.authorities.is_some()
    }

    /// Has them be shown.
    ///
    /// # Errors
    ///
    /// When authorities are none.
    pub(super) fn load(self, tickets: Tickets) -> anyhow::Result<Loaded> {
        let clients = match &self.authorities {
            None => ClientCertificates::NotAsked,
            Some(authorities) => {
                let roots = authorities.iter().cloned().collect();
                ClientCertificates::Required(Arc::new(roots))
            }
        };
        Ok(Loaded {
            quic: quic_server_config(self.identities.clone(), ALPN)?,
            config: server_config(self.identities.clone(), &clients, tickets)?,
            certificates: self,
        })
    }
}

fn read(files: &CertificateFiles) -> anyhow::Result<Identity> {
    metadata(&files.chain).advise_missing(
        "name a file with the certificate and those of its authorities, in PEM: --tls-certificate, \
         or `chain` under [[tls.certificates]]; without any the relay makes one",
    )?;
    let metadata = metadata(&files.key).advise_missing(
        "name the file with the certificate's private key, in PEM: --tls-key, or `key` under \
         [[tls.certificates]]",
    )?;
    let mode = metadata.mode() & 0o7777;
    // A group may be meant, such as Debian's ssl-cert.
    if mode & 0o007 != 0 {
        let shown = files.key.display();
        return Err(anyhow!(
            "the key file {shown} can be read by anybody (mode {mode:04o})"
        ))
        .advise(format!(
            "if nobody else has read it: chmod 640 {}",
            quoted_path(&files.key)
        ));
    }
    Ok(Identity::read(&files.chain, &files.key)?)
}

fn metadata(path: &Path) -> anyhow::Result<Metadata> {
    fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))
}

fn made_here(settings: &RelaySettings, state: &StateDir) -> anyhow::Result<Identity> {
    const FILE: &str = "tls-made-here.pem";
    let pem = state.kept(FILE, || {
        // What is no name for a certificate, such as an address in brackets, has no
        // meaning for those who pin it.
        let name = settings.jet.instance.host();
        let made = Identity::make_pem(name).or_else(|_| Identity::make_pem("localhost"));
        Ok(made?.into_bytes())
    })?;
    Ok(Identity::parse(&pem, &settings.state_dir.join(FILE))?)
}

fn authorities(path: &Path) -> anyhow::Result<Vec<TrustAnchor<'static>>> {
    let mut roots = RootCertStore::empty();
    metadata(path).advise_missing(
        "name a file with certificates of authorities, in PEM, as `client_ca` under [tls]",
    )?;
    let unreadable = || format!("cannot read {}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).with_context(unreadable)? {
        roots
            .add(certificate.with_context(unreadable)?)
            .with_context(|| format!("{} holds what is no authority", path.display()))?;
    }
    Ok(roots.roots)
}

/// What changes when one of the files does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    pub(super) certificates: Vec<Option<Stamp>>,
    /// Of issuers' keys and users.
    pub(super) others: Vec<Option<Stamp>>,
}

/// What changes when a file does, when who may read it does, or when another takes its place. The
/// time is that of the inode (`ctime`), which nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Seconds and nanoseconds.
    changed_at: (i64, i64),
    /// Of the file's system, and of the file.
    place: (u64, u64),
    bytes: u64,
    mode: u32,
}

/// What `read` gives, and stamps of which a later look that differs has something to take.
/// Certificates are read afterwards, and their stamps are of now; issuers' keys and users are part
/// of what `read` gives, so that theirs are of before, by the settings until then. A key that is
/// taken back meanwhile is found by the next look, as is all that those settings do not name: where
/// there are none, everything.
///
/// # Errors
///
/// Those of `read`.
pub(super) fn stamped<E>(
    before: Option<&RelaySettings>,
    read: impl FnOnce() -> Result<RelaySettings, E>,
) -> Result<(RelaySettings, Stamps), E> {
    let others = before.map_or_else(Vec::new, |before| stamps(before).others);
    let settings = read()?;
    let stamps = Stamps {
        others,
        ..stamps(&settings)
    };
    Ok((settings, stamps))
}

/// The stamps now, links followed, of the files of certificates, issuers' keys and users.
pub(super) fn stamps(settings: &RelaySettings) -> Stamps {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            changed_at: (metadata.ctime(), metadata.ctime_nsec()),
            place: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            mode: metadata.mode(),
        })
    };
    let certificates = settings.tls.certificates.iter();
    let issuers = settings.keyring.issuers().iter();
    let certificates = certificates
        .flat_map(|files| [&files.chain, &files.key])
        .chain(&settings.tls.client_ca);
    let of_jproxy = settings.jproxy.files();
    let others = issuers
        .map(|issuer| &issuer.path)
        .chain(&settings.users.path)
        .chain(&of_jproxy);
    Stamps {
        certificates: certificates.map(stamp).collect(),
        others: others.map(stamp).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::access::jproxy::KeyPair;
    use crate::config::settings::{Flags, HostFacts};
    use crate::config::{ConfigError, file::ConfigFile};

    /// What a reload lists while a user's file comes or goes is what the next look reads again.
    #[test]
    fn what_changes_while_the_settings_are_read_is_looked_at_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = KeyPair::generate("alice").expect("a key");
        let of_alice = folder.path().join(&pair.user_file_name);
        let text = format!("[jproxy]\nusers = {:?}\n", folder.path());
        let read = || -> Result<_, ConfigError> {
            let file = ConfigFile::parse(Path::new("midspan.toml"), text.clone())?;
            RelaySettings::resolve(&Flags::default(), Some(&file), &HostFacts::example())
        };
        let add = || {
            fs::write(&of_alice, &pair.user_file).expect("written");
            fs::set_permissions(&of_alice, Permissions::from_mode(0o600)).expect("chmod");
        };
        let remove = || fs::remove_file(&of_alice).expect("removed");
        add();
        let check = |before: Option<&RelaySettings>, meanwhile: &dyn Fn(), is_seen: bool| {
            let reading = || {
                let settings = read();
                meanwhile();
                settings
            };
            let (settings, taken) = stamped(before, reading).expect("valid");
            assert_eq!(stamps(&settings) != taken, is_seen);
            settings
        };
        // Whoever starts has seen nothing yet.
        let settings = check(None, &|| (), true);
        let settings = check(Some(&settings), &|| (), false);
        let with_alice = check(Some(&settings), &remove, true);
        assert!(with_alice.jproxy.users.named("alice").is_some());
        let without = check(Some(&with_alice), &|| (), false);
        check(Some(&without), &add, true);
    }

    /// Writes a certificate with its key.
    fn write(path: &Path) -> Fingerprint {
        let pem = Identity::make_pem("localhost").expect("made");
        fs::write(path, &pem).expect("written");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod");
        let identity = Identity::parse(pem.as_bytes(), path);
        identity.expect("a certificate").fingerprint()
    }

    #[test]
    fn a_certificate_that_is_half_renewed_keeps_no_other_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, other, ca] = ["one", "other", "ca"].map(|name| folder.path().join(name));
        let files = |path: &PathBuf| CertificateFiles {
            chain: path.clone(),
            key: path.clone(),
        };
        let mut settings = RelaySettings::resolve(&Flags::default(), None, &HostFacts::example())
            .expect("defaults are valid");
        settings.tls.certificates = vec![files(&one), files(&other)];
        settings.tls.client_ca = Some(ca.clone());
        let state = StateDir::open(&folder.path().join("state")).expect("made");
        let of_one = write(&one);
        write(&other);
        write(&ca);
        let before = Certificates::read(&settings, &state).expect("valid");
        assert_eq!(before.read_again(&settings).0, before);

        fs::write(&one, "half").expect("written");
        let of_other = write(&other);
        let (fresh, wrong) = before.read_again(&settings);
        let prints = fresh.identities.iter().map(Identity::fingerprint);
        assert_eq!(prints.collect::<Vec<_>>(), [of_one, of_other]);
        assert_eq!(fresh.authorities, before.authorities);
        let [error] = &*wrong else {
            panic!("{wrong:?}")
        };
        assert!(error.to_string().contains(&one.display().to_string()));
        Certificates::read(&settings, &state).expect_err("the first is none");

        // Authorities are one file more.
        fs::remove_file(&ca).expect("removed");
        let (same, wrong) = fresh.read_again(&settings);
        assert_eq!((same, wrong.len()), (fresh.clone(), 2));
        let of_one = write(&one);
        write(&ca);
        let (fresh, wrong) = fresh.read_again(&settings);
        assert_eq!(fresh.identities[0].fingerprint(), of_one);
        assert_ne!(fresh.authorities, before.authorities);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
