//! Reads the configuration again while the relay runs: when an operator asks for it,
//! when the files of its certificates, of issuers' keys or of users change, and, apart from
//! these, when those below `web.root` do.

use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ServerConfig;
use tracing::{error, info, warn};

use super::notify::Notifier;
use super::relay::RelayArgs;
use super::state_dir::StateDir;
use super::tls::Stamps;
use super::{failure, host, tls, user_changes};
use crate::config::settings::{HostFacts, RelaySettings};
use crate::config::{GivenSockets, keys, web};
use crate::shard::reload::{Reloader, Wake};
use crate::tls::server::Tickets;
use crate::web::Web;

/// How often these files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What a running relay was started with, and runs with now.
pub(super) struct Running {
    pub(super) args: RelayArgs,
    pub(super) given: GivenSockets,
    pub(super) notifier: Notifier,
    pub(super) settings: RelaySettings,
    pub(super) state: StateDir,
    pub(super) tickets: Tickets,
    /// Of these files, before they were read.
    pub(super) stamps: Stamps,
    /// What came of the certificates.
    pub(super) tls: Arc<ServerConfig>,
    /// The same for those who come by QUIC.
    pub(super) quic: Arc<ServerConfig>,
    pub(super) pages: Pages,
}

/// What was seen of the files below `web.root`. They are looked at by themselves, so that
/// one that is too long keeps no certificate from being renewed.
#[derive(Default)]
pub(super) struct Pages {
    /// When they were taken.
    stamp: Option<u64>,
    /// Why they are not, so that it is said once.
    complaint: Option<String>,
    /// Those before, until the next look. By then no shard has them, which would otherwise
    /// be kept from its connections while it gives back their memory.
    replaced: Web,
}

impl Running {
    /// Waits for changes on a thread of its own, until the relay ends.
    pub(super) fn watch(mut self, reloader: Reloader) {
        let watch = move || {
            // Of what is in use; a look that differs is tried again until it is taken.
            let mut taken = self.stamps.clone();
            loop {
                let wake = reloader.wait(LOOK_INTERVAL);
                if wake == Wake::Idle {
                    self.look_at_pages(&reloader);
                }
                let before = tls::stamps(&self.settings);
                let outcome = match wake {
                    Wake::Over => return,
                    Wake::Idle if before == taken => continue,
                    Wake::Idle => self.read_files_again(&reloader),
                    Wake::Asked => {
                        self.notifier.reloading();
                        self.read_again(&reloader)
                    }
                };
                let refusal = outcome.as_ref().err().map(|error| format!("{error:#}"));
                match &outcome {
                    // What changed since is found by the next look.
                    Ok(()) if wake == Wake::Idle => taken = before,
                    Ok(()) => taken = mem::take(&mut self.stamps),
                    Err(error) => {
                        error!(
                            error = refusal,
                            next = failure::next_step(error),
                            "the configuration is not taken, the one before stays"
                        );
                    }
                }
                if wake == Wake::Asked {
                    self.notifier.reloaded(refusal.as_deref());
                }
            }
        };
        let spawned = thread::Builder::new()
            .name("reload".to_owned())
            .spawn(watch);
        if let Err(error) = spawned {
            warn!(%error, "changes of the configuration will take a restart");
        }
    }

    fn read_again(&mut self, reloader: &Reloader) -> anyhow::Result<()> {
        let facts = HostFacts {
            given: self.given.clone(),
            served: Some(self.settings.jproxy.users.clone()),
            ..host::facts()?
        };
        let mut fresh = self.args.settings(&facts)?;
        for name in self.settings.keep_unchangeable(&mut fresh) {
            warn!("{name} has changed, which takes a restart");
        }
        self.take(reloader, fresh)?;
        self.pages.stamp = None;
        self.pages.complaint = None;
        Ok(())
    }

    /// Reads the pages again when a file has changed.
    fn look_at_pages(&mut self, reloader: &Reloader) {
        self.pages.replaced = Web::Nothing;
        if !matches!(self.settings.web, Web::Tree(_)) {
            return;
        }
        let stamp = web::stamp(&self.settings.web, &self.settings.limits);
        if stamp.is_some() && stamp == self.pages.stamp {
            return;
        }
        match self.read_pages_again(reloader) {
            Ok(()) => {
                self.pages.stamp = stamp;
                self.pages.complaint = None;
            }
            Err(error) => {
                let complaint = Some(format!("{error:#}"));
                if complaint != self.pages.complaint {
                    error!(
                        error = complaint,
                        next = failure::next_step(&error),
                        "the pages are not taken, those before stay"
                    );
                }
                self.pages.complaint = complaint;
            }
        }
    }

    fn read_pages_again(&mut self, reloader: &Reloader) -> anyhow::Result<()> {
        let fresh = web::read_again(&self.settings.web, &self.settings.limits)?;
        if fresh == self.settings.web {
            return Ok(());
        }
        let settings = RelaySettings {
            web: fresh,
            ..self.settings.clone()
        };
        reloader.apply(&settings, &self.tls, &self.quic)?;
        if let Web::Tree(tree) = &settings.web {
            info!(
                files = tree.len(),
                bytes = tree.bytes(),
                "the pages are taken"
            );
        }
        self.pages.replaced = mem::replace(&mut self.settings, settings).web;
        Ok(())
    }

    fn read_files_again(&mut self, reloader: &Reloader) -> anyhow::Result<()> {
        let mut fresh = self.settings.clone();
        fresh.keyring = keys::read_again(&fresh.keyring)?;
        fresh.users = fresh.users.read_again()?;
        fresh.jproxy = fresh.jproxy.read_again()?;
        self.take(reloader, fresh)
    }

    fn take(&mut self, reloader: &Reloader, settings: RelaySettings) -> anyhow::Result<()> {
        self.stamps = tls::stamps(&settings);
        if self.settings.tls.client_ca.is_some() || settings.tls.client_ca.is_some() {
            // A client that resumes is not asked for its certificate again.
            self.tickets = Tickets::new()?;
        }
        let loaded = tls::load(&settings, &self.state, self.tickets.clone())?;
        reloader.apply(&settings, &loaded.config, &loaded.quic)?;
        self.tls = loaded.config;
        self.quic = loaded.quic;
        let before = mem::replace(&mut self.settings, settings);
        let (websocks, jproxy) = (&self.settings.users, &self.settings.jproxy);
        info!(
            websocks_users = websocks.path.is_some().then(|| websocks.users.all().len()),
            jproxy_users = jproxy.path.is_some().then(|| jproxy.users.all().len()),
            jproxy_files_wrong = (!jproxy.wrong.is_empty()).then_some(jproxy.wrong.len()),
            "the configuration is taken"
        );
        user_changes::log(&before, &self.settings);
        self.pages.replaced = before.web;
        Ok(())
    }
}
