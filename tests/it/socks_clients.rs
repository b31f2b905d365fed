//! Programs that others wrote go out through the agent and a relay.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::agent_process::Program;
use super::agents::service;
use super::agents_http::{FileServer, WHOLE};
use super::agents_ssh::{make_key, ssh_server};
use super::relay_process::Relay;
use super::require::require;
use super::socks::{agent, url};
use super::websocks::relay;

const FILE_BYTES: usize = 4 << 20;

/// So many seconds a client may take, which only a hang needs.
const CLIENT_SECONDS: &str = "60";

/// An agent and its relay, and a file at a server.
pub(crate) struct Outside {
    folder: TempDir,
    relay: Relay,
    agent: Program,
    local: SocketAddr,
    pub(crate) content: Vec<u8>,
    server: SocketAddr,
}

impl Outside {
    fn start(options: &[&str]) -> Self {
        let (folder, relay) = relay("");
        let agent = agent(folder.path(), &url(&relay), options);
        Self::by(folder, relay, agent)
    }

    /// By this agent, and the relay that it goes out by.
    pub(crate) fn by(folder: TempDir, relay: Relay, (agent, local): (Program, SocketAddr)) -> Self {
        let mut content = vec![0; FILE_BYTES];
        fastrand::Rng::with_seed(11).fill(&mut content);
        let (_, server) = FileServer::start(content.clone());
        Self {
            folder,
            relay,
            agent,
            local,
            content,
            server,
        }
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("http://{host}:{}{WHOLE}", self.server.port())
    }

    /// Has a client run to its end; gives what it said.
    #[track_caller]
    pub(crate) fn run(&self, command: &mut Command) -> Output {
        let output = command
            .current_dir(self.folder.path())
            .env("no_proxy", "")
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        output
    }

    /// All connections went by the relay.
    pub(crate) fn stop(self, sessions: u64) {
        assert!(self.agent.stop().success());
        let ended = self.relay.stop();
        ended.check_clean();
        assert_eq!(ended.counters.count("paired"), sessions);
    }
}

pub(crate) fn curl(curl: &Path, options: &[&str], url: &str) -> Command {
    let mut command = Command::new(curl);
    command
        .args(["--disable", "--silent", "--show-error", "--fail"])
        .args(["--max-time", CLIENT_SECONDS])
        .args(options)
        .arg(url);
    command
}

#[test]
fn curl_goes_out_in_every_way_that_it_has() {
    let Some(program) = require("curl") else {
        return;
    };
    let outside = Outside::start(&[]);
    let local = outside.local.to_string();
    let socks = format!("socks5h://u:p@{local}");
    let http = format!("http://{local}");
    for (options, host) in [
        (&["--socks5", &*local][..], "127.0.0.1"),
        (&["--socks5-hostname", &local], "localhost"),
        (&["-x", &socks], "localhost"),
        (&["-x", &http], "localhost"),
        (&["-p", "-x", &http], "localhost"),
        (&["-x", &http], "127.0.0.1"),
    ] {
        let output = outside.run(&mut curl(&program, options, &outside.url(host)));
        assert!(output.stdout == outside.content, "{options:?}");
    }
    outside.stop(6);
}

#[test]
fn curl_shows_a_password_by_both_protocols() {
    let Some(program) = require("curl") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let user = folder.path().join("user");
    fs::write(&user, "me:right\n").expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&user, mode).expect("chmod");
    let outside = Outside::start(&["--local-user-file", user.to_str().expect("text")]);
    for scheme in ["socks5h", "http"] {
        let proxy = format!("{scheme}://me:right@{}", outside.local);
        let output = outside.run(&mut curl(
            &program,
            &["-x", &proxy],
            &outside.url("localhost"),
        ));
        assert!(output.stdout == outside.content, "{scheme}");
        let proxy = format!("{scheme}://me:wrong@{}", outside.local);
        let output = curl(&program, &["-x", &proxy], &outside.url("localhost")).output();
        assert!(!output.expect("it runs").status.success(), "{scheme}");
    }
    outside.stop(2);
}

#[test]
fn git_clones_by_it() {
    let (Some(git), Some(python)) = (require("git"), require("python3")) else {
        return;
    };
    let outside = Outside::start(&[]);
    let folder = outside.folder.path();
    let run = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        let mut command = Command::new(&git);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", folder);
        outside.run(command.args(identity).args(args));
    };
    run(&["init", "-q", "there"]);
    fs::write(folder.join("there/file"), &outside.content).expect("written");
    run(&["-C", "there", "add", "file"]);
    run(&["-C", "there", "commit", "-q", "-m", "one"]);
    run(&["-C", "there", "update-server-info"]);
    let mut serving = Command::new(python);
    serving
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
        .current_dir(folder);
    let serving = Program::start_other(serving);
    let port = serving.reported("Serving HTTP on 127.0.0.1 port ");
    let proxy = format!("http.proxy=socks5h://{}", outside.local);
    let from = format!("http://localhost:{port}/there/.git");
    run(&["-c", &proxy, "clone", "-q", &from, "here"]);
    let cloned = fs::read(folder.join("here/file")).expect("cloned");
    assert!(cloned == outside.content);
    assert!(outside.agent.stop().success());
    let ended = outside.relay.stop();
    ended.check_clean();
    assert!(ended.counters.count("paired") > 0);
}

#[test]
fn pysocks_goes_out() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = manifest.join("target/python/bin/python");
    let Some(python) = require(python.to_str().expect("text")) else {
        return;
    };
    let outside = Outside::start(&[]);
    let mut command = Command::new(python);
    command
        .arg(manifest.join("tests/it/scripts/pysocks_client.py"))
        .args([&outside.local.port().to_string(), "localhost"])
        .args([&outside.server.port().to_string(), WHOLE]);
    let output = outside.run(&mut command);
    assert!(output.stdout.ends_with(&outside.content));
    outside.stop(1);
}

#[test]
fn netcat_and_proxychains_go_out_and_are_greeted() {
    fn greet(mut stream: TcpStream) -> io::Result<()> {
        stream.write_all(b"220 ready\r\n")
    }
    let (Some(netcat), Some(proxychains)) = (require("nc.openbsd"), require("proxychains4")) else {
        return;
    };
    let outside = Outside::start(&[]);
    let greeting = service(greet).port().to_string();
    let local = outside.local.to_string();
    let netcat_by = |protocol: &str| {
        let mut command = Command::new("timeout");
        command.arg(CLIENT_SECONDS).arg(&netcat).args([
            "-d",
            "-X",
            protocol,
            "-x",
            &local,
            "localhost",
            &greeting,
        ]);
        outside.run(&mut command).stdout
    };
    assert_eq!(netcat_by("5"), b"220 ready\r\n");
    assert_eq!(netcat_by("connect"), b"220 ready\r\n");
    let config = outside.folder.path().join("proxychains.conf");
    let port = outside.local.port();
    let text = format!("strict_chain\n[ProxyList]\nsocks5 127.0.0.1 {port}\n");
    fs::write(&config, text).expect("written");
    let mut command = Command::new("timeout");
    command
        .arg(CLIENT_SECONDS)
        .arg(proxychains)
        .args(["-q", "-f"])
        .arg(&config)
        .arg(&netcat)
        .args(["-d", "127.0.0.1", &greeting]);
    assert_eq!(outside.run(&mut command).stdout, b"220 ready\r\n");
    outside.stop(3);
}

#[test]
fn ssh_goes_out_by_netcat() {
    let programs = ["ssh", "sshd", "ssh-keygen", "nc.openbsd"].map(require);
    let [Some(ssh), Some(sshd), Some(ssh_keygen), Some(netcat)] = programs else {
        return;
    };
    let outside = Outside::start(&[]);
    let folder = outside.folder.path();
    make_key(&ssh_keygen, &folder.join("host_key"));
    make_key(&ssh_keygen, &folder.join("client_key"));
    let server = ssh_server(&sshd, folder);
    let host_key = fs::read_to_string(folder.join("host_key.pub")).expect("a key");
    let known = format!("[127.0.0.1]:{} {host_key}", server.port());
    fs::write(folder.join("known_hosts"), known).expect("written");
    let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
    let by = format!(
        "ProxyCommand={} -X 5 -x {} %h %p",
        netcat.display(),
        outside.local
    );
    let mut command = Command::new(ssh);
    command
        .args(["-F", "none", "-p", &server.port().to_string(), "-o", &by])
        .args(["-o", &option("IdentityFile", folder.join("client_key"))])
        .args([
            "-o",
            &option("UserKnownHostsFile", folder.join("known_hosts")),
        ])
        .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
        .args([
            "-o",
            "StrictHostKeyChecking=yes",
            "127.0.0.1",
            "echo through",
        ]);
    assert_eq!(outside.run(&mut command).stdout, b"through\n");
    outside.stop(1);
}
