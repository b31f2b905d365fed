//! The agent reaches its relay through gateways that pass WebSockets on, and cut what is
//! silent.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::event::{Timespec, poll};

use super::agent_process::Program;
use super::agents::{check_echo_over, echo, service};
use super::agents_http::start_haproxy;
use super::patience::until;
use super::require::require;
use super::socks::{agent, connect};
use super::websocks::relay;

/// How long nobody says anything: longer than the gateway waits, and than two signs of life
/// are apart. `MIDSPAN_IDLE_S` says otherwise.
const IDLE_S: i64 = 25;

/// How long a gateway waits, at most: nginx by default.
const GATEWAY_TIMEOUT_MAX_S: i64 = 60;

fn idle_s() -> i64 {
    env::var("MIDSPAN_IDLE_S").map_or(IDLE_S, |idle| idle.parse().expect("a number"))
}

fn gateway_timeout_s() -> i64 {
    (idle_s() * 4 / 5).min(GATEWAY_TIMEOUT_MAX_S)
}

fn stay_idle() {
    let pause = Timespec {
        tv_sec: idle_s(),
        tv_nsec: 0,
    };
    poll(&mut [], Some(&pause)).expect("poll waits");
}

/// nginx before a relay, and the address at which it listens.
fn nginx(nginx: &Path, folder: &Path, relay: SocketAddr) -> (Program, SocketAddr) {
    let timeout = gateway_timeout_s();
    let settings = format!(
        "proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"Upgrade\";\n\
         proxy_read_timeout {timeout}s;\nproxy_send_timeout {timeout}s;\n"
    );
    start_nginx(nginx, folder, relay, &settings)
}

/// nginx before a relay, by HTTP/1.1 and with these settings, and the address at which it
/// listens.
pub(crate) fn start_nginx(
    nginx: &Path,
    folder: &Path,
    relay: SocketAddr,
    settings: &str,
) -> (Program, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let shown = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {shown}/{kind};\n"))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {shown}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\n{temporary}\
         server {{ listen {address}; location / {{\n\
         proxy_pass http://{relay};\nproxy_http_version 1.1;\n\
         proxy_set_header Host $host;\n{settings}}} }} }}\n"
    );
    let config = folder.join("nginx.conf");
    fs::write(&config, text).expect("written");
    let mut command = Command::new(nginx);
    command.arg("-c").arg(&config).stdin(Stdio::null());
    let running = Program::start_other(command);
    until("nginx", || TcpStream::connect(address).ok().map(drop));
    (running, address)
}

/// HAProxy in HTTP mode before a relay, and the address at which it listens.
fn haproxy(haproxy: &Path, folder: &Path, relay: SocketAddr) -> (Program, SocketAddr) {
    let timeout = gateway_timeout_s();
    let lines = format!(
        "    mode http\n    server relay {relay}\n    timeout connect 10s\n    \
         timeout client {timeout}s\n    timeout server {timeout}s\n    timeout tunnel {timeout}s\n"
    );
    start_haproxy(haproxy, folder, &lines)
}

fn ping_pong(stream: &mut TcpStream) {
    stream.write_all(b"ping").expect("sent");
    let mut back = [0; 4];
    stream.read_exact(&mut back).expect("an echo");
    assert_eq!(&back, b"ping");
}

/// Bytes both ways, and no end of either before all have come.
fn check_bytes(mut stream: TcpStream) {
    let mut sent = vec![0; 3_000_000];
    fastrand::Rng::with_seed(3).fill(&mut sent);
    let mut writer = stream.try_clone().expect("a second handle");
    let mut received = vec![0; sent.len()];
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&sent).expect("taken"));
        stream.read_exact(&mut received).expect("all of it");
    });
    assert!(received == sent);
}

fn check(program: &str, start: fn(&Path, &Path, SocketAddr) -> (Program, SocketAddr)) {
    let Some(path) = require(program) else {
        return;
    };
    let (folder, mut relay) = relay("[limits]\nwebsocket_ping_s = 5");
    let (_gateway, address) = start(&path, folder.path(), relay.address);
    let echoing = service(echo);
    let by = format!("websocks+ws://alice@{address}");
    let (raw, raw_local) = agent(folder.path(), &by, &["--pool", "1"]);
    let (framed, framed_local) = agent(folder.path(), &by, &["--pool", "0", "--framed"]);
    raw.logged("the relay lets us in");
    let mut stream = connect(framed_local, echoing);
    ping_pong(&mut stream);
    let accepted = relay.counters().count("accepted");
    stay_idle();
    // Neither was cut: the way that is ready is the same, and the session goes on.
    assert_eq!(relay.counters().count("accepted"), accepted);
    ping_pong(&mut stream);
    drop(stream);
    check_bytes(connect(raw_local, echoing));
    // A Close passes as the end of one direction where nginx takes a FIN for that of both.
    check_echo_over(connect(framed_local, echoing), 2, 3_000_000);
    assert!(raw.stop().success() && framed.stop().success());
    relay.stop().check_clean();
}

#[test]
fn what_is_silent_stays_open_behind_nginx() {
    check("nginx", nginx);
}

#[test]
fn what_is_silent_stays_open_behind_haproxy() {
    check("haproxy", haproxy);
}
