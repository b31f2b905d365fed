//! The processes that one row consists of: how they are started, and when they are ready.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::host::Host;
use crate::namespace::Namespace;

/// How long a process may take until it listens.
const START_ATTEMPTS_MAX: u32 = 1000;
const START_ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);

/// A process that is to be started.
#[derive(Debug)]
pub(crate) struct Link {
    /// What it is in its row.
    pub(crate) name: &'static str,
    pub(crate) command: Command,
    pub(crate) listens: Listens,
}

/// Where a process listens once it is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listens {
    /// Where it was told to.
    At(&'static str),
    /// At the first address in the first line that it says.
    AsItSays,
    /// Where it was told to by UDP, or nowhere; it is ready once it says this.
    Says(&'static str),
    /// Nowhere, as it relays nothing; it is ready once it says anything.
    Nowhere,
}

/// All processes of a row, which run until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    links: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    relays: bool,
    child: Child,
    log: PathBuf,
}

impl Chain {
    /// Starts one process after the other on the relays' core, and returns once the last one
    /// listens. Nothing but themselves has connected to them by then.
    pub(crate) fn start(
        host: &Host,
        namespace: &Namespace,
        links: Vec<Link>,
    ) -> anyhow::Result<Self> {
        let mut chain = Self::default();
        for link in links {
            let running = Running::start(host, namespace, &link)?;
            chain.links.push(running);
        }
        Ok(chain)
    }

    /// Everything that relays for this row: the processes in the order of their start, and those
    /// that they started.
    pub(crate) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let relays = self.links.iter().filter(|link| link.relays);
        let mut pids: Vec<_> = relays.map(|link| link.child.id()).collect();
        let mut asked = 0;
        while let Some(pid) = pids.get(asked) {
            pids.extend(children(*pid)?);
            asked += 1;
        }
        Ok(pids)
    }

    /// An error if one of them has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for link in &mut self.links {
            if !link.is_running()? {
                bail!("its {} ended, and said: {}", link.name, link.said()?);
            }
        }
        Ok(())
    }
}

impl Running {
    fn start(host: &Host, namespace: &Namespace, link: &Link) -> anyhow::Result<Self> {
        let Link {
            name,
            command,
            listens,
        } = link;
        let log = host.folder.path().join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut pinned = namespace.command();
        pinned
            .args(["taskset", "-c"])
            .arg(host.relay_core.to_string())
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = pinned
            .spawn()
            .context("cannot run nsenter, setpriv and taskset")?;
        let mut running = Self {
            name,
            relays: !matches!(listens, Listens::Nowhere),
            child,
            log,
        };
        for _ in 0..START_ATTEMPTS_MAX {
            if !running.is_running()? {
                break;
            }
            let said = running.said()?;
            let address = match listens {
                Listens::At(address) => Some(address.parse()?),
                Listens::AsItSays => first_address(&said),
                Listens::Says(word) if said.contains(word) => return Ok(running),
                Listens::Says(_) => None,
                Listens::Nowhere if said.is_empty() => None,
                Listens::Nowhere => return Ok(running),
            };
            if let Some(address) = address
                && is_listening(namespace, address)?
            {
                return Ok(running);
            }
            wait();
        }
        bail!("its {name} said: {}", running.said()?)
    }

    fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn said(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?.trim().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first word of the first line that is an address with a port.
fn first_address(said: &str) -> Option<SocketAddr> {
    let line = said.lines().next()?;
    line.split_ascii_whitespace()
        .find_map(|word| word.parse().ok())
}

/// Whether somebody listens there, or at the same port of all addresses; asked without
/// connecting.
fn is_listening(namespace: &Namespace, address: SocketAddr) -> anyhow::Result<bool> {
    const LISTENING: &str = "0A";
    let port = format!(":{:04X}", address.port());
    let table = namespace.tcp_table()?;
    Ok(table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&port) && fields.nth(1) == Some(LISTENING)
    }))
}

/// The processes that a process has started.
fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = fs::read_to_string(thread?.path().join("children"))
            .context("the kernel does not list the children of a process")?;
        for child in listed.split_ascii_whitespace() {
            children.push(child.parse()?);
        }
    }
    Ok(children)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark waits for another process, and no shard is here"
)]
fn wait() {
    thread::sleep(START_ATTEMPT_INTERVAL);
}
