//! Reads the configuration again while the relay runs: when an operator asks for it,
//! and when the files of its certificates change.

use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::relay::RelayArgs;
use super::state_dir::StateDir;
use super::{host, tls};
use crate::config::settings::RelaySettings;
use crate::shard::reload::{Reloader, Wake};
use crate::tls::server::Tickets;

/// How often the files of certificates are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What a running relay was started with, and runs with now.
pub(super) struct Running {
    pub(super) args: RelayArgs,
    pub(super) settings: RelaySettings,
    pub(super) state: StateDir,
    pub(super) tickets: Tickets,
}

impl Running {
    /// Waits for changes on a thread of its own, until the relay ends.
    pub(super) fn watch(mut self, reloader: Reloader) {
        let watch = move || {
            let mut seen = tls::stamps(&self.settings.tls);
            loop {
                let wake = reloader.wait(LOOK_INTERVAL);
                let now = tls::stamps(&self.settings.tls);
                let outcome = match wake {
                    Wake::Over => return,
                    Wake::Idle if now == seen => continue,
                    Wake::Idle => self.take(&reloader, self.settings.clone()),
                    Wake::Asked => self.read_again(&reloader),
                };
                // Files that are half written change again.
                seen = tls::stamps(&self.settings.tls);
                if let Err(error) = outcome {
                    error!(
                        error = format!("{error:#}"),
                        "the configuration is not taken, the one before stays"
                    );
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
        let mut fresh = self.args.settings(&host::facts()?)?;
        for name in self.settings.keep_unchangeable(&mut fresh) {
            warn!("{name} has changed, which takes a restart");
        }
        self.take(reloader, fresh)
    }

    fn take(&mut self, reloader: &Reloader, settings: RelaySettings) -> anyhow::Result<()> {
        let loaded = tls::load(&settings, &self.state, self.tickets.clone())?;
        reloader.apply(&settings, &loaded.config)?;
        self.settings = settings;
        info!("the configuration is taken");
        Ok(())
    }
}
