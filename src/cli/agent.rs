//! The arguments that all proxies share, and what they do alike.

use std::fmt::Display;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tracing::info;

use super::logging::{self, LogQueue};
use super::notify::{Notifier, Watching};
use super::{Advise, print};
use crate::admin::{Admin, AdminError};
use crate::agent::fleet::Fleet;
use crate::agent::settings::AgentSettings;
use crate::agent::target::HostPort;
use crate::config::limits::Limits;
use crate::config::settings::{HostFacts, LogSettings};
use crate::config::{CoreChoice, DataPlane, ListenAddress, LogFormat, LogLevel, Period, Problem};
use crate::shard::status::Inquirer;
use crate::shard::world::ShardSnapshot;

/// Arguments of all proxies.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Run on so many cores, as 2, or on these, as 0,2-3
    #[arg(long, value_name = "N|LIST", default_value = "1")]
    cores: CoreChoice,

    /// Move bytes in this way
    #[arg(
        long,
        value_enum,
        value_name = "WAY",
        default_value = "auto",
        hide_possible_values = true
    )]
    data_plane: DataPlane,

    /// Trust the authorities whose certificates are in this file to vouch for the
    /// relay, instead of the system's
    #[arg(long, value_name = "FILE")]
    relay_ca: Option<PathBuf>,

    /// Reach the relay by this HTTP proxy, which has to allow CONNECT
    #[arg(long, value_name = "HOST:PORT")]
    via: Option<HostPort>,

    /// Show metrics, status and histograms to operators here, on loopback
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<ListenAddress>,

    /// When told to stop, wait so long for sessions to end
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain_timeout: Period,

    /// Lay out log lines in this way
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,

    /// Log this and what is more important; MIDSPAN_LOG overrides it
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        default_value = "info",
        hide_possible_values = true
    )]
    log_level: LogLevel,
}

impl AgentArgs {
    pub(super) fn settings(&self, host: &HostFacts) -> anyhow::Result<AgentSettings> {
        if let Some(address) = self.admin.filter(|address| !address.is_loopback()) {
            let problem = Problem::AdminReachable { address };
            return Err(problem).context("--admin").usage();
        }
        let cores = self.cores.resolve(&host.cores_allowed);
        Ok(AgentSettings {
            cores: cores.context("--cores").usage()?,
            data_plane: self.data_plane,
            drain_timeout: self.drain_timeout.0,
            log: LogSettings {
                format: self.log_format,
                level: self.log_level,
            },
            limits: Limits::defaults(host.descriptors, host.memory_bytes),
            relay_ca: self
                .relay_ca
                .as_ref()
                .map(|path| host.current_dir.join(path)),
            via: self.via.clone(),
            admin: self.admin,
        })
    }
}

/// A proxy that has said where it is, and that operators and systemd see.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) notifier: Notifier,
    watching: Watching,
    log: LogQueue,
}

/// Shows a proxy that is bound, before it serves: logs from now on, says `report`, lets operators
/// in, and tells systemd `status`.
pub(super) fn show<M: Send + 'static>(
    settings: &AgentSettings,
    fleet: &mut Fleet<M>,
    report: Option<impl Display>,
    status: String,
) -> anyhow::Result<Shown> {
    let admin = settings.admin.map(|address| Admin::bind(address.0));
    let admin = admin.transpose()?;
    let log = logging::init(settings.log)?;
    if let Some(report) = report {
        print(&report);
    }
    if let Some(admin) = admin {
        serve_admin(admin, fleet.inquirer())?;
    }
    // Whether the relay is there is for the log to tell: a proxy waits for it as long as it
    // takes, and no other unit should wait with it.
    let notifier = Notifier::from_env(status);
    let watching = fleet
        .take_pulse()
        .map(|pulse| notifier.clone().watch(pulse));
    Ok(Shown {
        notifier,
        watching: watching.unwrap_or_default(),
        log,
    })
}

impl Shown {
    /// It has served, and counted this.
    pub(super) fn end(self, counted: &ShardSnapshot) {
        info!(counters = %counted, "stopped");
        self.watching.finish();
        self.log.flush();
    }
}

/// Lets operators in, and says where.
fn serve_admin<M: Send + 'static>(admin: Admin, inquirer: Inquirer<M>) -> Result<(), AdminError> {
    let address = admin.address();
    admin.serve(inquirer)?;
    print(&format_args!(
        "for operators: http://{address}/ (midspan status --admin {address})\n"
    ));
    Ok(())
}
