//! Reads the configuration again while the relay runs: when an operator asks for it,
//! when the files of its certificates, of issuers' keys or of users change, and, apart from
//! these, when those below `web.root` do.

use std::mem;
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::notify::Notifier;
use super::relay::RelayArgs;
use super::state_dir::StateDir;
use super::tls::{Certificates, Loaded, Stamps};
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
    /// Of its files, before those were read that are in use: a look that differs reads again.
    pub(super) stamps: Stamps,
    /// What is wrong with files that have changed, so that it is said once.
    pub(super) complaints: Vec<String>,
    /// What came of the certificates.
    pub(super) loaded: Loaded,
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
            loop {
                match reloader.wait(LOOK_INTERVAL) {
                    Wake::Over => return,
                    Wake::Idle => {
                        self.look_at_pages(&reloader);
                        self.look_at_files(&reloader);
                    }
                    Wake::Asked => {
                        self.notifier.reloading();
                        let outcome = self.read_again(&reloader);
                        let refusal = outcome.as_ref().err().map(|error| format!("{error:#}"));
                        if let Err(error) = &outcome {
                            error!(
                                error = refusal,
                                next = failure::next_step(error),
                                "the configuration is not taken, the one before stays"
                            );
                        }
                        self.notifier.reloaded(refusal.as_deref());
                    }
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
        let read = || self.args.settings(&facts);
        let (mut fresh, stamps) = tls::stamped(Some(&self.settings), read)?;
        for name in self.settings.keep_unchangeable(&mut fresh) {
            warn!("{name} has changed, which takes a restart");
        }
        let loaded = self.load(Certificates::read(&fresh, &self.state)?)?;
        self.take(reloader, fresh, loaded)?;
        self.stamps = stamps;
        self.complaints.clear();
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
        reloader.apply(&settings, &self.loaded.config, &self.loaded.quic)?;
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

    /// Reads the files again when one has changed, each for itself: what is wrong with one keeps
    /// nothing else from being taken. While something is wrong they are read at each look.
    fn look_at_files(&mut self, reloader: &Reloader) {
        let seen = tls::stamps(&self.settings);
        if seen == self.stamps {
            return;
        }
        let before = &self.settings;
        let mut fresh = before.clone();
        let (keyring, issuers_wrong) = keys::read_again(&before.keyring);
        fresh.keyring = keyring;
        let users = before.users.read_again().map(|users| fresh.users = users);
        let jproxy = before.jproxy.read_again();
        let jproxy = jproxy.map(|jproxy| fresh.jproxy = jproxy);
        let users_wrong = [users, jproxy].into_iter().filter_map(Result::err);
        let wrong = issuers_wrong.into_iter().chain(users_wrong);
        let mut wrong: Vec<anyhow::Error> = wrong.map(Into::into).collect();
        let mut loaded = self.loaded.clone();
        if seen.certificates != self.stamps.certificates {
            let (certificates, errors) = loaded.certificates.read_again(before);
            wrong.extend(errors);
            if certificates != loaded.certificates {
                match self.load(certificates) {
                    Ok(renewed) => loaded = renewed,
                    Err(error) => wrong.push(error),
                }
            }
        }
        // Whoever was told that something is wrong is told that it is so no more.
        let is_right_again = wrong.is_empty() && !self.complaints.is_empty();
        let has_certificates = loaded.certificates != self.loaded.certificates;
        if (has_certificates || is_right_again || fresh != self.settings)
            && let Err(error) = self.take(reloader, fresh, loaded)
        {
            wrong.push(error);
        }
        if wrong.is_empty() {
            // What changed since is found by the next look.
            self.stamps = seen;
        }
        self.complain(&wrong);
    }

    fn complain(&mut self, wrong: &[anyhow::Error]) {
        let mut complaints = Vec::new();
        for error in wrong {
            let complaint = format!("{error:#}");
            if !self.complaints.contains(&complaint) {
                error!(
                    error = complaint,
                    next = failure::next_step(error),
                    "a file that has changed is not taken, what it held before stays"
                );
            }
            complaints.push(complaint);
        }
        self.complaints = complaints;
    }

    /// Has these certificates be shown.
    fn load(&mut self, certificates: Certificates) -> anyhow::Result<Loaded> {
        if self.loaded.certificates.asks_clients() || certificates.asks_clients() {
            // A client that resumes is not asked for its certificate again.
            self.tickets = Tickets::new()?;
        }
        certificates.load(self.tickets.clone())
    }

    fn take(
        &mut self,
        reloader: &Reloader,
        settings: RelaySettings,
        loaded: Loaded,
    ) -> anyhow::Result<()> {
        reloader.apply(&settings, &loaded.config, &loaded.quic)?;
        self.loaded = loaded;
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
