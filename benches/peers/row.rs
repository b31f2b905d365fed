//! The rows: who relays, and how it is set up.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::Context;

use crate::host::{BACKEND, Host, LISTEN, Running, find};
use crate::namespace::Namespace;

/// Where Debian puts nginx's stream module.
pub(crate) const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const HAPROXY_CONFIG: &str = include_str!("haproxy.cfg.in");
const NGINX_CONFIG: &str = include_str!("nginx.conf.in");

/// One relay in one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The generator dials its own backend.
    Nobody,
    /// As it comes.
    Haproxy,
    /// Made to splice both ways, through pipes of this size.
    HaproxySplice { pipe_bytes: u32 },
    /// With a buffer of this size per direction.
    Nginx { buffer_kib: u32 },
    /// With this data plane.
    Midspan { plane: &'static str },
}

impl Row {
    /// All rows, ours last.
    pub(crate) fn all() -> Vec<Self> {
        let splice = [65_536, 262_144, 1_048_576];
        let planes = ["copy", "splice", "ring", "auto"];
        let mut rows = vec![Self::Nobody, Self::Haproxy];
        rows.extend(splice.map(|pipe_bytes| Self::HaproxySplice { pipe_bytes }));
        rows.extend([64, 256].map(|buffer_kib| Self::Nginx { buffer_kib }));
        rows.extend(planes.map(|plane| Self::Midspan { plane }));
        rows
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Nobody => "no relay".to_owned(),
            Self::Haproxy => "haproxy default".to_owned(),
            Self::HaproxySplice { pipe_bytes } => format!("haproxy splice {pipe_bytes}"),
            Self::Nginx { buffer_kib } => format!("nginx {buffer_kib}k"),
            Self::Midspan { plane } => format!("midspan {plane}"),
        }
    }

    /// One of those that we want to be better than.
    pub(crate) const fn is_peer(&self) -> bool {
        matches!(
            self,
            Self::Haproxy | Self::HaproxySplice { .. } | Self::Nginx { .. }
        )
    }

    /// The load generator's arguments that lead through this relay.
    pub(crate) fn route(&self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Nobody => &["--direct"],
            Self::Midspan { .. } => &["--jet", LISTEN],
            Self::Haproxy | Self::HaproxySplice { .. } | Self::Nginx { .. } => {
                &["--target", LISTEN, "--backend", BACKEND]
            }
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Starts the relay, and returns once it listens.
    pub(crate) fn start(
        &self,
        host: &Host,
        namespace: &Namespace,
    ) -> anyhow::Result<Option<Running>> {
        let command = match self {
            Self::Nobody => return Ok(None),
            Self::Haproxy => haproxy(host, "", "")?,
            Self::HaproxySplice { pipe_bytes } => haproxy(
                host,
                &format!("tune.pipesize {pipe_bytes}"),
                "option splice-request\n    option splice-response",
            )?,
            Self::Nginx { buffer_kib } => nginx(host, *buffer_kib)?,
            Self::Midspan { plane } => midspan(host, plane),
        };
        let running = host
            .start_relay(namespace, &command)
            .with_context(|| format!("{} does not start", self.name()))?;
        Ok(Some(running))
    }
}

fn haproxy(host: &Host, tune: &str, options: &str) -> anyhow::Result<Command> {
    let config = HAPROXY_CONFIG
        .replace("@CORE@", &host.relay_core.to_string())
        .replace("@TUNE@", tune)
        .replace("@OPTIONS@", options)
        .replace("@LISTEN@", LISTEN)
        .replace("@BACKEND@", BACKEND);
    let path = host.folder.path().join("haproxy.cfg");
    fs::write(&path, config)?;
    let mut command = Command::new(find("haproxy").context("haproxy is missing")?);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

fn nginx(host: &Host, buffer_kib: u32) -> anyhow::Result<Command> {
    let folder = host.folder.path();
    let config = NGINX_CONFIG
        .replace("@MODULE@", NGINX_STREAM_MODULE)
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@BUFFER@", &format!("{buffer_kib}k"))
        .replace("@LISTEN@", LISTEN)
        .replace("@BACKEND@", BACKEND);
    let path = folder.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(find("nginx").context("nginx is missing")?);
    command.arg("-c").arg(path).args(["-e", "/dev/null"]);
    Ok(command)
}

fn midspan(host: &Host, plane: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_midspan")));
    command
        .args(["relay", "--listen", LISTEN, "--cores", "1"])
        .args(["--data-plane", plane, "--log-level", "error"])
        .arg("--state-dir")
        .arg(host.folder.path().join("state"));
    command
}
