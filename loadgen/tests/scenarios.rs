//! Each scenario for a moment: with nothing between, through `midspan relay`, and through a SOCKS5
//! proxy.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::collections::HashMap;
use std::env;
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use midspan::access::ApiKey;
use midspan::access::jproxy::KeyPair;
use serde_json::Value;

/// One load each; the last word of a name in the report tells the scenario.
const LOADS: [&str; 10] = [
    "bulk --pairs 3 --seconds 0.1 --warmup 0.05",
    "bulk --pairs 2 --bytes 5000000 --source copy --sink verify",
    "bulk --pairs 2 --bytes 5000000 --reverse --sink verify",
    "bulk --bytes 536870912 --sink copy",
    "echo --pairs 4 --seconds 0.1 --warmup 0.05",
    "echo --pairs 2 --size 200000 --seconds 0.1 --warmup 0.05 --beside-bulk 2",
    "echo --pairs 2 --rate 500 --seconds 0.1 --warmup 0.05",
    "join --count 60 --concurrency 5",
    "join --count 60 --concurrency 5 --rate 2000",
    "idle --pairs 20 --settle 0.05",
];

#[test]
fn with_nothing_between() {
    for load in LOADS {
        check(load, "--direct", None);
    }
}

#[test]
fn through_a_relay_with_either_version_of_jet() {
    let relay = Relay::start();
    for version in ["--jet-version 1", "--jet-version 2 --gate hold"] {
        let route = format!("--jet {} {version}", relay.address);
        for load in LOADS {
            check(load, &route, Some(relay.child.id()));
        }
    }
}

#[test]
fn through_a_relay_over_every_transport() {
    let relay = Relay::start();
    for (near, far) in [("tls", "tcp"), ("tcp", "tls"), ("ws", "wss"), ("wss", "ws")] {
        let (address, pin) = (&relay.address, &relay.pin);
        let route = format!("--jet {address} --near {near} --far {far} --pin {pin}");
        for load in LOADS {
            check(load, &route, Some(relay.child.id()));
        }
    }
}

#[test]
fn through_the_tunnels_of_a_relay_that_forwards_ports() {
    let [server, client] = [1, 2].map(|byte| ApiKey::from_random([byte; 24]));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("relay.toml");
    let text = format!(
        "[[ptth.servers]]\nname = \"home\"\nsha256 = \"{}\"\n\
         [[ptth.clients]]\nname = \"alice\"\nsha256 = \"{}\"\nmay = [\"home\"]\n",
        server.hash(),
        client.hash()
    );
    std::fs::write(&config, text).unwrap();
    let relay = Relay::start_with(&["--config", config.to_str().unwrap()]);
    let address = &relay.address;
    let route = format!("--ptth {address} --server-key {server} --client-key {client}");
    for load in LOADS {
        check(load, &route, Some(relay.child.id()));
    }
    let route = format!("--ptth {address} --server-key {client} --client-key {client}");
    let output = loadgen("bulk --bytes 1", &route, None);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("answered with status 401"), "{said}");
}

#[test]
fn through_the_channels_of_a_relay_that_serves_jproxy() {
    let pair = KeyPair::generate("alice").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [users, key, config] = ["users", "key.dat", "relay.toml"].map(|it| folder.path().join(it));
    std::fs::create_dir(&users).unwrap();
    let user = users.join(&pair.user_file_name);
    for (path, bytes) in [(&user, &pair.user_file), (&key, &pair.client_file)] {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    for dialect in ["spec", "original"] {
        let text = format!(
            "[jproxy]\nusers = {users:?}\ndialect = \"{dialect}\"\n\
             [egress]\nreach = \"everything\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let config = ["--config", config.to_str().unwrap()];
        let relay = Relay::start_on("jproxy://127.0.0.1:0", &config);
        let route = format!(
            "--jproxy {} --key-file {} --dialect {dialect}",
            relay.address,
            key.display()
        );
        for load in LOADS {
            check(load, &route, Some(relay.child.id()));
        }
    }
}

#[test]
fn a_proxy_may_have_it_as_http() {
    let route = || {
        let backend = unused_address();
        let proxy = late_proxy(backend);
        format!("--target {proxy} --backend {backend} --http")
    };
    for load in LOADS {
        if !load.starts_with("join") {
            check(load, &route(), None);
        }
    }
    let output = loadgen("join --count 3", &route(), None);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--http is not for joins"), "{said}");
}

#[test]
fn through_a_socks5_proxy_step_by_step_and_at_once() {
    for (options, first_bytes) in [("", 3), ("--at-once", 13)] {
        let proxy = socks_proxy(first_bytes, true);
        for load in LOADS {
            let route = format!("--socks {proxy} {options}");
            check(load, &route, Some(std::process::id()));
        }
    }
    let proxy = socks_proxy(3, true);
    let route = format!("--socks {proxy} --backend {}", unused_address());
    check("join --count 60", &route, None);
}

#[test]
fn a_relay_counts_as_the_generator_does() {
    let relay = Relay::start();
    let route = format!(
        "--jet {} --near ws --far tls --pin {}",
        relay.address, relay.pin
    );
    let (mut paired, mut bytes) = (0, 0);
    for (load, pairs, carried) in [
        ("join --count 60 --warmup 0 --concurrency 5", 60, 60),
        (
            "bulk --pairs 2 --bytes 5000000 --sink verify",
            2,
            10_000_000,
        ),
        ("idle --pairs 20 --settle 0", 20, 0),
    ] {
        check(load, &route, None);
        (paired, bytes) = (paired + pairs, bytes + carried);
        // The last sessions may still be ending.
        let counted = (0..10_000)
            .map(|_| relay.metrics())
            .find(|counted| counted["midspan_pairs"] == 0)
            .expect("the last session ends");
        assert_eq!(counted["midspan_paired_total"], paired, "{load}");
        assert_eq!(counted["midspan_bytes_relayed_total"], bytes, "{load}");
        assert_eq!(counted["midspan_accepted_total"], 2 * paired, "{load}");
        assert_eq!(counted["midspan_session_seconds_count"], paired, "{load}");
    }
}

#[test]
fn what_cannot_be_reached_is_an_error() {
    let route = format!("--jet {}", unused_address());
    let output = loadgen("bulk --bytes 1", &route, None);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("pair 1 of 1 did not come about"), "{said}");

    let output = loadgen("join --count 3 --warmup 0", &route, None);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 3, "{report}");
}

#[test]
fn what_a_proxy_refuses_is_an_error() {
    let route = format!("--socks {}", socks_proxy(3, false));
    let output = loadgen("join --count 3 --warmup 0", &route, None);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 3, "{report}");
    let why = "the proxy answered ConnectionRefused";
    assert_eq!(report["errors_first"][0], why, "{report}");
}

#[test]
fn each_process_that_is_named_is_told_apart() {
    let own = std::process::id();
    let route = format!("--direct --relay-pid {own}");
    let output = loadgen("bulk --bytes 1000000", &route, Some(own));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let each = report["relay_cpu_s_per_gib_each"].as_array().unwrap();
    let sum: f64 = each.iter().map(|share| share.as_f64().unwrap()).sum();
    assert_eq!(each.len(), 2, "{report}");
    assert!(
        (sum - report["relay_cpu_s_per_gib"].as_f64().unwrap()).abs() < 1e-9,
        "{report}"
    );
}

/// In namespaces of its own, which end with the shell.
#[test]
fn over_a_link_both_ways_take_their_time() {
    let script = "\
        ip link set lo up
        \"$0\" link --delay 0.01 | {
            read -r ready && \"$0\" echo --target 10.99.0.2:9001 --backend 10.99.0.1:9001 \\
                --seconds 0.3 --warmup 0 --json -
            kill -TERM -1
        }";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--pid", "--fork"])
        .args(["sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_midspan-loadgen"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&said);
    assert_eq!(report["errors"], 0, "{report}");
    assert!(report["latency"]["p50_us"].as_f64().unwrap() >= 20_000.0);
}

/// Runs one load, which must succeed, and looks at its report.
fn check(load: &str, route: &str, relay_pid: Option<u32>) {
    let output = loadgen(load, route, relay_pid);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{load} {route}: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 0, "{load} {route}: {report}");
    let scenario = load.split(' ').next().unwrap();
    assert_eq!(report["scenario"], scenario, "{report}");
    assert_eq!(report["relay_cpu_s"].is_number(), relay_pid.is_some());
    let done = match scenario {
        "bulk" => &report["bytes"],
        "echo" => &report["round_trips"],
        "join" => &report["joins"],
        _ => &report["pairs"],
    };
    assert!(done.as_u64().unwrap() > 0, "{load} {route}: {report}");
}

fn loadgen(load: &str, route: &str, relay_pid: Option<u32>) -> std::process::Output {
    let pid = relay_pid.map(|pid| format!("--relay-pid {pid}"));
    let line = format!("{load} {route} {}", pid.unwrap_or_default());
    Command::new(env!("CARGO_BIN_EXE_midspan-loadgen"))
        .args(line.split_whitespace())
        .args(["--json", "-"])
        .output()
        .unwrap()
}

struct Relay {
    child: Child,
    address: String,
    /// Where operators look.
    admin: String,
    /// The fingerprint of its certificate; empty where it takes no TLS.
    pin: String,
    _state: tempfile::TempDir,
}

impl Relay {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", arguments)
    }

    fn start_on(listen: &str, arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut child = Command::new(relay_program())
            .args(["relay", "--listen", listen, "--create-on-accept"])
            .args(["--admin", "127.0.0.1:0"])
            .args(["--cores", "1", "--log-level", "error", "--state-dir"])
            .arg(state.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = |beginning: &str| {
            lines
                .find_map(|line| {
                    let line = line.unwrap();
                    let rest = line.trim().strip_prefix(beginning)?;
                    Some(rest.split_whitespace().next()?.to_owned())
                })
                .expect(beginning)
        };
        Self {
            address: said("listening"),
            admin: said("operators    http://")
                .trim_end_matches('/')
                .to_owned(),
            pin: match listen.starts_with("jproxy://") {
                true => String::new(),
                false => said("certificate  made here, SHA-256"),
            },
            child,
            _state: state,
        }
    }
}

impl Relay {
    /// Samples of `/metrics` without labels.
    fn metrics(&self) -> HashMap<String, u64> {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let sample = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        said.lines().filter_map(sample).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Nobody listens on the port of a listener that is gone.
fn unused_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A SOCKS5 proxy that runs until the tests end. It drops a client who says more or less than so
/// many bytes first, and dials only where it `dials`.
fn socks_proxy(first_bytes: usize, dials: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || serve_socks(client?, first_bytes, dials));
        }
    });
    address
}

/// Without the codec that the generator has: they would agree on a mistake.
fn serve_socks(mut client: TcpStream, first_bytes: usize, dials: bool) -> io::Result<()> {
    let mut said = [0; 64];
    let mut count = client.read(&mut said)?;
    if count != first_bytes {
        return Ok(());
    }
    client.write_all(b"\x05\0")?;
    while count < 13 {
        count += client.read(&mut said[count..])?;
    }
    assert_eq!(said[..7], *b"\x05\x01\0\x05\x01\0\x01");
    let address = [said[7], said[8], said[9], said[10]];
    let port = u16::from_be_bytes([said[11], said[12]]);
    if !dials {
        return client.write_all(b"\x05\x05\0\x01\0\0\0\0\0\0");
    }
    let backend = TcpStream::connect(SocketAddr::from((address, port)))?;
    client.write_all(b"\x05\0\0\x01\0\0\0\0\0\0")?;
    copy_both_ways(client, backend)
}

/// A proxy that dials the backend once a client has said something, as those of HTTP do.
fn late_proxy(backend: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || {
                let client = client?;
                client.peek(&mut [0])?;
                copy_both_ways(client, TcpStream::connect(backend)?)
            });
        }
    });
    address
}

fn copy_both_ways(client: TcpStream, backend: TcpStream) -> io::Result<()> {
    let (client_too, backend_too) = (client.try_clone()?, backend.try_clone()?);
    thread::spawn(move || copy(&backend_too, &client_too));
    copy(&client, &backend)
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}

/// The relay of the same build. Cargo makes it for the workspace's tests; for
/// those of this package alone it is asked to.
fn relay_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_midspan-loadgen")).with_file_name("midspan");
        if !program.is_file() {
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["build", "--package", "midspan", "--bin", "midspan"]);
            if !cfg!(debug_assertions) {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "{cargo:?}");
        }
        program
    })
}
