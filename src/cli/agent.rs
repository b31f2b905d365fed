//! The arguments that all proxies share, and what they do alike.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{Advise, print};
use crate::admin::{Admin, AdminError};
use crate::agent::settings::AgentSettings;
use crate::agent::target::HostPort;
use crate::config::limits::Limits;
use crate::config::settings::{HostFacts, LogSettings};
use crate::config::{CoreChoice, DataPlane, ListenAddress, LogFormat, LogLevel, Period, Problem};
use crate::shard::status::Inquirer;

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

/// Claims the address for operators, if there is to be one.
pub(super) fn bind_admin(settings: &AgentSettings) -> Result<Option<Admin>, AdminError> {
    settings
        .admin
        .map(|address| Admin::bind(address.0))
        .transpose()
}

/// Lets operators in, and says where.
pub(super) fn serve_admin<M: Send + 'static>(
    admin: Option<Admin>,
    inquirer: Inquirer<M>,
) -> Result<(), AdminError> {
    if let Some(admin) = admin {
        let address = admin.address();
        admin.serve(inquirer)?;
        print(&format_args!(
            "for operators: http://{address}/ (midspan status --admin {address})\n"
        ));
    }
    Ok(())
}
