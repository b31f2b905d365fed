//! What the benchmark needs of its host: peers, two cores, and the load generator.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, ensure};
use midspan::tls::identity::Identity;
use serde_json::Value;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::row::Row;

/// Where every row listens for the generator.
pub(crate) const LISTEN: &str = "127.0.0.1:9000";
/// Where the generator's backend listens, for relays that dial one.
pub(crate) const BACKEND: &str = "127.0.0.1:9001";
/// Where the second process listens, in rows of two.
pub(crate) const BEHIND: &str = "127.0.0.1:9002";

const BOTH_PEM: &str = "both.pem";

/// A package of Debian, by a program or file that it brings.
pub(crate) type Package = (&'static str, &'static str);

/// What every row needs.
const PACKAGES: [Package; 3] = [
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

/// Looks for what these rows need; installs what is missing, as root on Debian.
pub(crate) fn find_peers(rows: &[&Row]) -> anyhow::Result<()> {
    let missing = || {
        let peers = rows.iter().flat_map(|row| row.packages());
        PACKAGES
            .iter()
            .chain(peers)
            .filter(|(program, _)| find(program).is_none())
            .map(|(_, package)| *package)
            .collect::<BTreeSet<_>>()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let packages = Vec::from_iter(packages);
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

/// Writes a file that its owner alone may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// Cores, programs and a folder for everybody's files.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) relay_core: usize,
    pub(crate) generator_core: usize,
    pub(crate) generator: PathBuf,
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
        write_secret(&path, &pem)?;
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

    /// Runs the load generator, and returns its report.
    pub(crate) fn load(
        &self,
        namespace: &Namespace,
        load: &[String],
        route: &[String],
        relay_pids: &[u32],
    ) -> anyhow::Result<Value> {
        let mut command = namespace.command();
        command
            .arg(&self.generator)
            .args(load)
            .args(route)
            .args(["--json", "-", "--cpu"])
            .arg(self.generator_core.to_string())
            .stdin(Stdio::null());
        for pid in relay_pids {
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
