//! What the benchmark needs of its host: peers, two cores, and processes that
//! end with it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, bail, ensure};
use midspan::tls::identity::Identity;
use serde_json::Value;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::row::NGINX_STREAM_MODULE;

/// Where every relay listens.
pub(crate) const LISTEN: &str = "127.0.0.1:9000";
/// Where the generator's backend listens, for relays that dial one.
pub(crate) const BACKEND: &str = "127.0.0.1:9001";

const BOTH_PEM: &str = "both.pem";

/// How long a relay may take until it listens.
const START_ATTEMPTS_MAX: u32 = 1000;
const START_ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);

/// Packages of Debian, by a program or file that each brings.
const PACKAGES: [(&str, &str); 6] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    (NGINX_STREAM_MODULE, "libnginx-mod-stream"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
];

/// The full path of a program, also where daemons are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(daemons)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Looks for what is compared; installs what is missing, as root on Debian.
pub(crate) fn find_peers() -> anyhow::Result<()> {
    let missing = || {
        PACKAGES
            .iter()
            .filter(|(program, _)| find(program).is_none())
            .map(|(_, package)| *package)
            .collect::<Vec<_>>()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let advice = format!(
        "install what is missing: apt-get install {}",
        packages.join(" ")
    );
    ensure!(rustix::process::geteuid().is_root(), "{advice}");
    for arguments in [
        &["update", "-q"][..],
        &["install", "-q", "-y", "--no-install-recommends"],
    ] {
        let install = arguments[0] == "install";
        let status = Command::new("apt-get")
            .args(arguments)
            .args(if install { &packages[..] } else { &[] })
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status();
        ensure!(status.is_ok_and(|status| status.success()), "{advice}");
    }
    ensure!(missing().is_empty(), "{advice}");
    Ok(())
}

/// Cores, programs and a folder for everybody's files.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) relay_core: usize,
    generator_core: usize,
    generator: PathBuf,
    /// The fingerprint of the certificate in [`Self::both_pem`].
    pub(crate) pin: String,
}

impl Host {
    pub(crate) fn prepare(relay_core: usize, generator_core: usize) -> anyhow::Result<Self> {
        ensure!(
            relay_core != generator_core,
            "relay and generator need a core each"
        );
        let generator = Path::new(env!("CARGO_BIN_EXE_midspan")).with_file_name("midspan-loadgen");
        ensure!(
            generator.is_file(),
            "{} is missing: build it first, in the same profile: cargo build --workspace --release",
            generator.display()
        );
        // What fails here would fail in each cell.
        drop(Namespace::new()?);
        let folder = tempfile::tempdir()?;
        // On the same curve for everybody: P-256.
        let pem = Identity::make_pem("localhost")?;
        let path = folder.path().join(BOTH_PEM);
        fs::write(&path, &pem)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let pin = Identity::parse(pem.as_bytes(), &path)?.fingerprint();
        Ok(Self {
            folder,
            pin: pin.to_string(),
            relay_core,
            generator_core,
            generator,
        })
    }

    /// A certificate and its key, for those who end TLS.
    pub(crate) fn both_pem(&self) -> PathBuf {
        self.folder.path().join(BOTH_PEM)
    }

    /// Starts a relay on its core, and returns once it listens. Nothing has
    /// connected to it by then.
    pub(crate) fn start_relay(
        &self,
        namespace: &Namespace,
        command: &Command,
    ) -> anyhow::Result<Running> {
        let file = File::create(self.folder.path().join("relay.log"))?;
        let mut pinned = namespace.command();
        pinned
            .args(["taskset", "-c"])
            .arg(self.relay_core.to_string())
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = pinned
            .spawn()
            .context("cannot run nsenter, setpriv and taskset")?;
        let mut running = Running { child };
        for _ in 0..START_ATTEMPTS_MAX {
            if !running.is_running()? {
                break;
            }
            if is_listening(namespace)? {
                return Ok(running);
            }
            wait();
        }
        bail!("it said: {}", self.relay_log()?)
    }

    /// What the last relay said.
    pub(crate) fn relay_log(&self) -> anyhow::Result<String> {
        let log = fs::read_to_string(self.folder.path().join("relay.log"))?;
        Ok(log.trim().to_owned())
    }

    /// Runs the load generator, and returns its report.
    pub(crate) fn load(
        &self,
        namespace: &Namespace,
        load: &[String],
        route: &[String],
        relay_pid: Option<u32>,
    ) -> anyhow::Result<Value> {
        let mut command = namespace.command();
        command
            .arg(&self.generator)
            .args(load)
            .args(route)
            .args(["--json", "-", "--cpu"])
            .arg(self.generator_core.to_string())
            .stdin(Stdio::null());
        if let Some(pid) = relay_pid {
            command.arg("--relay-pid").arg(pid.to_string());
        }
        let output = command.output().context("cannot run the load generator")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("no report from the load generator: {}", said.trim())
        })
    }

    /// What a recorded table has to say about where it comes from.
    pub(crate) fn report(&self) -> anyhow::Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/host_report.sh");
        let output = Namespace::new()?.command().arg("sh").arg(script).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(format!("```text\n{}\n```\n", text.trim()))
    }
}

/// A relay that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens where relays do; asked without connecting.
fn is_listening(namespace: &Namespace) -> anyhow::Result<bool> {
    const LISTENING: &str = "0A";
    let (_, port) = LISTEN.rsplit_once(':').context("no port")?;
    let port = format!(":{:04X}", port.parse::<u16>()?);
    let table = namespace.tcp_table()?;
    Ok(table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&port) && fields.nth(1) == Some(LISTENING)
    }))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark waits for another process, and no shard is here"
)]
fn wait() {
    thread::sleep(START_ATTEMPT_INTERVAL);
}
