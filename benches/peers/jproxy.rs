//! The rows of jProxy: a relay whose tunnels the generator has, or our own client has, and what
//! their cipher costs by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use midspan::access::jproxy::KeyPair;

use crate::chain::{Link, Listens};
use crate::host::{BEHIND, Host, LISTEN, find};
use crate::row::midspan_relay;

const GIB: f64 = (1_u64 << 30) as f64;

/// What a packet has at most, encrypted.
const PACKET_BYTES: u32 = 4080;

/// The client's key, which the rows' relay knows.
pub(crate) fn key_file(host: &Host) -> PathBuf {
    host.folder.path().join("jproxy").join("key.dat")
}

/// A relay that serves tunnels without TLS.
pub(crate) fn relay(host: &Host, listen: &'static str, scheme: &str) -> anyhow::Result<Link> {
    let folder = host.folder.path().join("jproxy");
    let users = folder.join("users");
    if !users.exists() {
        make_keys(&users, &key_file(host))?;
    }
    let config = folder.join("relay.toml");
    fs::write(
        &config,
        format!("[jproxy]\nusers = {users:?}\n[egress]\nreach = \"everything\"\n"),
    )?;
    let mut command = midspan_relay(host, "auto", &format!("{scheme}://{listen}"));
    command.arg("--config").arg(config);
    Ok(Link {
        name: "relay",
        command,
        listens: Listens::At(listen),
    })
}

fn make_keys(users: &Path, key: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(users)?;
    let pair = KeyPair::generate("bench")?;
    for (path, bytes) in [
        (users.join(&pair.user_file_name), &pair.user_file),
        (key.to_owned(), &pair.client_file),
    ] {
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Our own client of such a relay, and the relay.
pub(crate) fn chain(host: &Host, is_tls: bool) -> anyhow::Result<Vec<Link>> {
    let scheme = if is_tls { "jproxy+tls" } else { "jproxy" };
    let relay = relay(host, BEHIND, scheme)?;
    let query = match is_tls {
        true => format!("?pin={}", host.pin),
        false => String::new(),
    };
    let mut client = Command::new(env!("CARGO_BIN_EXE_midspan"));
    client
        .args(["socks", LISTEN, "--cores", "1", "--relay"])
        .arg(format!("{scheme}://{BEHIND}{query}"))
        .arg("--key-file")
        .arg(key_file(host));
    let client = Link {
        name: "client",
        command: client,
        listens: Listens::AsItSays,
    };
    Ok(vec![relay, client])
}

/// What openssl says that the cipher of a tunnel costs on this host, in CPU-s/GiB.
///
/// # Errors
///
/// When it does not say.
pub(crate) fn cipher_cpu_s_per_gib() -> anyhow::Result<f64> {
    let mut command = Command::new(find("openssl").context("openssl is missing")?);
    let bytes = PACKET_BYTES.to_string();
    command.args(["speed", "-evp", "aes-128-ecb", "-seconds", "1", "-mr"]);
    let output = command.args(["-bytes", &bytes]).output()?;
    ensure!(output.status.success(), "openssl speed failed");
    let said = String::from_utf8(output.stdout)?;
    // "+F:", a number, a name, and bytes for each second of its time.
    let line = said.lines().rev().find(|line| line.starts_with("+F:"));
    let rate = line.and_then(|line| line.rsplit(':').next()?.parse::<f64>().ok());
    let rate = rate.context("openssl speed says no rate")?;
    Ok(GIB / rate)
}
