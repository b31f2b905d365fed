//! The rows through SOCKS5: what dials where the generator asks to.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use midspan::access::PasswordDigest;

use crate::chain::{Link, Listens};
use crate::host::{BEHIND, Host, LISTEN, find, write_secret};
use crate::row::midspan_relay;

const SSHD_CONFIG: &str = include_str!("sshd_config.in");

const USER: &str = "bench";
const PASSWORD: &str = "correct horse";

/// How many connections to the relay the agent keeps ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// As many as it does by itself.
    Default,
    Empty,
}

/// What is between the agent and the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Loopback,
    /// A link with a round trip of [`ROUND_TRIP`].
    Link,
}

/// As within a region; how often it has to be waited for is the same at any distance.
const ROUND_TRIP: Duration = Duration::from_millis(2);

/// Where the relay listens behind such a link.
const LINK_NEAR: &str = "10.99.0.1";
const BEHIND_LINK: &str = "10.99.0.1:9002";
/// What the agent dials to get there.
const LINK_FAR: &str = "10.99.0.2";

/// One process that listens and dials, a thread per connection.
pub(crate) fn microsocks() -> anyhow::Result<Vec<Link>> {
    let (address, port) = LISTEN.split_once(':').context("no port")?;
    let mut command = Command::new(find("microsocks").context("microsocks is missing")?);
    command.args(["-i", address, "-p", port]);
    Ok(vec![Link {
        name: "proxy",
        command,
        listens: Listens::At(LISTEN),
    }])
}

/// `ssh -D`, and the server that dials for it.
pub(crate) fn ssh(host: &Host) -> anyhow::Result<Vec<Link>> {
    let folder = host.folder.path();
    for name in ["host_key", "client_key"] {
        make_key(&folder.join(name))?;
    }
    // Where a root sshd separates its privileges; a host without the service has none.
    fs::create_dir_all("/run/sshd")?;
    let config = SSHD_CONFIG
        .replace("@LISTEN@", BEHIND)
        .replace("@FOLDER@", &folder.display().to_string());
    let path = folder.join("sshd_config");
    fs::write(&path, config)?;
    // It starts itself once more for each connection, and wants to know where it is.
    let mut server = Command::new(find("sshd").context("sshd is missing")?);
    server.args(["-D", "-e", "-f"]).arg(path);

    let (address, port) = BEHIND.split_once(':').context("no port")?;
    let mut client = Command::new(find("ssh").context("ssh is missing")?);
    client
        .args(["-N", "-F", "none", "-D", LISTEN, "-p", port, "-i"])
        .arg(folder.join("client_key"));
    for option in [
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        "IdentityAgent=none",
        "LogLevel=ERROR",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    ] {
        client.args(["-o", option]);
    }
    client.arg(format!("root@{address}"));

    Ok(vec![
        Link {
            name: "server",
            command: server,
            listens: Listens::At(BEHIND),
        },
        Link {
            name: "client",
            command: client,
            listens: Listens::At(LISTEN),
        },
    ])
}

fn make_key(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let status = Command::new(find("ssh-keygen").context("ssh-keygen is missing")?)
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()?;
    ensure!(status.success(), "ssh-keygen makes no {}", path.display());
    Ok(())
}

/// Our agent, and our relay that dials for it.
pub(crate) fn midspan(
    host: &Host,
    transport: &str,
    pool: Pool,
    way: Way,
) -> anyhow::Result<Vec<Link>> {
    let (behind, dialled) = match way {
        Way::Loopback => (BEHIND, BEHIND.to_owned()),
        Way::Link => (BEHIND_LINK, BEHIND_LINK.replace(LINK_NEAR, LINK_FAR)),
    };
    let folder = host.folder.path();
    let [users, config, password] =
        ["users", "relay.toml", "password"].map(|name| folder.join(name));
    let kept = PasswordDigest::of(PASSWORD);
    write_secret(&users, &format!("{USER}:{kept}\n"))?;
    write_secret(&password, PASSWORD)?;
    fs::write(
        &config,
        format!("[websocks]\nusers = {users:?}\n[egress]\nreach = \"everything\"\n"),
    )?;
    let mut relay = midspan_relay(host, "auto", behind);
    relay.arg("--config").arg(config);
    if way == Way::Link {
        // Another host could be at the far end, as far as it knows.
        relay.arg("--open");
    }

    let query = match transport {
        "wss" => format!("?pin={}", host.pin),
        _ => String::new(),
    };
    let mut agent = Command::new(env!("CARGO_BIN_EXE_midspan"));
    agent
        .args(["socks", LISTEN, "--cores", "1", "--relay"])
        .arg(format!("websocks+{transport}://{USER}@{dialled}{query}"))
        .arg("--password-file")
        .arg(password);
    if pool == Pool::Empty {
        agent.args(["--pool", "0"]);
    }

    let mut links = Vec::new();
    if way == Way::Link {
        links.push(link(host));
    }
    links.push(Link {
        name: "relay",
        command: relay,
        listens: Listens::At(behind),
    });
    links.push(Link {
        name: "agent",
        command: agent,
        listens: Listens::AsItSays,
    });
    Ok(links)
}

fn link(host: &Host) -> Link {
    let mut command = Command::new(&host.generator);
    command.args(["link", "--near", LINK_NEAR, "--far", LINK_FAR, "--delay"]);
    command.arg((ROUND_TRIP / 2).as_secs_f64().to_string());
    Link {
        name: "link",
        command,
        listens: Listens::Nowhere,
    }
}
