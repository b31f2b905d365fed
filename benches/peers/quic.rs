//! The rows that forward a port over QUIC: a relay, and a proxy on each side of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, ffi::OsString};

use anyhow::{Context, ensure};

use crate::chain::{Link, Listens};
use crate::host::{BACKEND, BEHIND, Host, LISTEN, write_secret};
use crate::row::{forwarding, keys, midspan_relay, midspan_relay_on};

/// The longest UDP payload, in bytes: what an Ethernet has room for.
pub(crate) const MTU: u16 = 1452;

/// The longest that ours tries for where the network has room.
pub(crate) const MTU_LARGE: u16 = 8952;

/// Where quinn is at its best there: ten of them, which is its burst, fit into one call.
pub(crate) const MTU_OF_QUINN: u16 = 6000;

/// How quinn is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuned {
    /// As whoever writes such a program would, with our windows.
    Ordinarily,
    /// And with our cipher, send window and allocator's settings.
    AsOurs,
}

/// At which of a relay's shards its proxies meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shards {
    /// It has one.
    One,
    /// It has two, and they meet at one of them.
    SameOfTwo,
    /// It has two, and each proxy comes to another one.
    BothOfTwo,
}

impl Shards {
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::One => "",
            Self::SameOfTwo => ", one core of two",
            Self::BothOfTwo => ", across two cores",
        }
    }

    /// To which the server-side proxy comes, and the client-side one.
    const fn steer(self) -> [u8; 2] {
        match self {
            Self::One | Self::SameOfTwo => [0, 0],
            Self::BothOfTwo => [0, 1],
        }
    }
}

/// What ours tell glibc themselves.
const ALLOCATOR_AS_OURS: &str = "GLIBC_TUNABLES=glibc.malloc.trim_threshold=4194304:\
     glibc.malloc.mmap_threshold=1048576";

/// What a proxy of ours says once the relay has let it in.
const JOINED: &str = "joined the relay";

/// Where Cargo puts the peer.
fn quinn_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/quinn_chain")
}

/// Builds the peer as it is measured.
pub(crate) fn build_quinn_chain() -> anyhow::Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .current_dir(quinn_folder())
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target-dir",
            "target",
        ])
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "quinn_chain cannot be built");
    Ok(())
}

/// quinn and tokio, as `benches/quinn_chain` has them.
pub(crate) fn quinn(host: &Host, mtu: u16, tuned: Tuned) -> Vec<Link> {
    let program = quinn_folder().join("target/release/quinn_chain");
    let role = |name, words: &[&str], says| {
        let mut command = match tuned {
            Tuned::Ordinarily => Command::new(&program),
            Tuned::AsOurs => {
                let mut command = Command::new("env");
                command.arg(ALLOCATOR_AS_OURS).arg(&program);
                command
            }
        };
        command
            .arg("--pem")
            .arg(host.both_pem())
            .args(["--mtu", &mtu.to_string()])
            .args((tuned == Tuned::AsOurs).then_some("--as-ours"))
            .args(words);
        Link {
            name,
            command,
            listens: Listens::Says(says),
        }
    };
    vec![
        role("relay", &["relay", BEHIND], "listening on"),
        role("server", &["server", BEHIND, BACKEND], JOINED),
        role("client", &["client", BEHIND, LISTEN], "listening on"),
    ]
}

/// How rathole hides what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// Not at all: its default, TCP as it is.
    No,
    /// By the Noise protocol, with its default pattern.
    ByNoise,
}

/// A key of X25519 and its public half, as `rathole --genkey` prints them: nobody else's.
const NOISE_KEYS: [&str; 2] = [
    "+dvfXZ9+2LB648jIv/86Jnqca6gJx5VB6ltlErY3Weg=",
    "xtrT0dCB+LR01nqGMvGf+Fh1qWPALP2UofhOz8vEVGE=",
];

/// Whether rathole is there.
pub(crate) fn find_rathole() -> anyhow::Result<()> {
    let status = Command::new("rathole")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .context("rathole is not on the path (cargo install rathole)")?;
    ensure!(status.success(), "rathole does not run");
    Ok(())
}

/// rathole, whose relay takes the user's connections itself: two processes, by TCP.
pub(crate) fn rathole(host: &Host, hidden: Hidden) -> anyhow::Result<Vec<Link>> {
    let [private, public] = NOISE_KEYS;
    let transport = |side, key: &str| match hidden {
        Hidden::No => String::new(),
        Hidden::ByNoise => {
            format!("[{side}.transport]\ntype = \"noise\"\n[{side}.transport.noise]\n{key}\n")
        }
    };
    let role = |name, side, text: String, listens| {
        let path = host.folder.path().join(format!("rathole-{side}.toml"));
        fs::write(&path, text)?;
        let mut command = Command::new("rathole");
        command.arg(format!("--{side}")).arg(path);
        Ok::<_, anyhow::Error>(Link {
            name,
            command,
            listens,
        })
    };
    let server = format!(
        "[server]\nbind_addr = \"{BEHIND}\"\ndefault_token = \"bench\"\n{}\
         [server.services.bench]\nbind_addr = \"{LISTEN}\"\n",
        transport("server", &format!("local_private_key = \"{private}\""))
    );
    let client = format!(
        "[client]\nremote_addr = \"{BEHIND}\"\ndefault_token = \"bench\"\n{}\
         [client.services.bench]\nlocal_addr = \"{BACKEND}\"\n",
        transport("client", &format!("remote_public_key = \"{public}\""))
    );
    Ok(vec![
        role("relay", "server", server, Listens::At(BEHIND))?,
        role("server", "client", client, Listens::At(LISTEN))?,
    ])
}

/// Ours, by PTTH over QUIC.
pub(crate) fn midspan(host: &Host, mtu: u16, at: Shards) -> anyhow::Result<Vec<Link>> {
    let folder = host.folder.path();
    let config = folder.join("relay.toml");
    let quic = format!("[quic]\nlisten = [\"{BEHIND}\"]\nmtu_max = {mtu}\n");
    fs::write(&config, quic + &forwarding())?;
    let mut relay = match at {
        Shards::One => midspan_relay(host, "auto", BEHIND),
        Shards::SameOfTwo | Shards::BothOfTwo => on_both_cores(host),
    };
    relay.arg("--config").arg(config);

    let [at_server, at_client] = at.steer();
    let [server_key, client_key] = keys();
    let proxy = |name, key: &dyn ToString, steer: u8, words: &[&str]| {
        let url = format!("ptth+quic://{BEHIND}?pin={}&steer={steer}", host.pin);
        let path = folder.join(format!("{name}.key"));
        write_secret(&path, &key.to_string())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_midspan"));
        command
            .args(words)
            .args(["--relay", &url, "--mtu-max", &mtu.to_string()])
            .arg("--key-file")
            .arg(path);
        Ok::<_, anyhow::Error>(Link {
            name,
            command,
            listens: Listens::Says(JOINED),
        })
    };
    Ok(vec![
        Link {
            name: "relay",
            command: relay,
            listens: Listens::At(BEHIND),
        },
        proxy(
            "server",
            &server_key,
            at_server,
            &["expose", "home", "--to", &format!("9={BACKEND}")],
        )?,
        proxy(
            "client",
            &client_key,
            at_client,
            &["forward", LISTEN, "--to", "home:9"],
        )?,
    ])
}

/// A relay of two shards, the other of which has the generator's core.
fn on_both_cores(host: &Host) -> Command {
    let relay = midspan_relay_on(host, "2", "auto", BEHIND);
    let mut command = Command::new("taskset");
    command
        .arg("-c")
        .arg(format!("{},{}", host.relay_core, host.generator_core))
        .arg(relay.get_program())
        .args(relay.get_args());
    command
}
