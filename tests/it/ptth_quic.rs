//! PTTH over QUIC: relay and both proxies as five processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use super::agent_process::{Program, relay_by};
use super::agents::{check_echo, check_greetings, dial, echo, greet_and_count, service};
use super::agents_ssh::check_ssh_and_scp;
use super::agents_transports::FINGERPRINT;
use super::ptth_agents::{Meeting, relay_config};
use super::require::require;

/// What a relay says of where it speaks QUIC.
pub(super) const QUIC: &str = "  quic         ";

/// Has a relay, at a port of UDP that it chose, and what proxies come by.
pub(super) fn meeting(options: &[&str]) -> Meeting {
    meeting_where(&[], "", options, |_| ()).0
}

/// The same, and where operators see it.
pub(super) fn meeting_with_admin(options: &[&str]) -> (Meeting, SocketAddr) {
    meeting_with_file("", options)
}

/// The same, with more in the relay's file.
pub(super) fn meeting_with_file(more: &str, options: &[&str]) -> (Meeting, SocketAddr) {
    meeting_by(&[], more, options)
}

/// The same, of a relay that is started by another program.
pub(super) fn meeting_by(wrapper: &[&str], more: &str, options: &[&str]) -> (Meeting, SocketAddr) {
    let options = [&["--admin", "127.0.0.1:0"], options].concat();
    meeting_where(wrapper, more, &options, |relay| {
        let admin = relay.reported("  operators    http://");
        admin.trim_end_matches('/').parse().expect("an address")
    })
}

/// `ask` reads what is reported between the address and the certificate.
fn meeting_where<T>(
    wrapper: &[&str],
    more: &str,
    options: &[&str],
    ask: impl FnOnce(&Program) -> T,
) -> (Meeting, T) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = relay_config(folder.path(), more);
    let own = ["--config", &config, "--quic-listen", "127.0.0.1:0"];
    let options = [&own, options].concat();
    let (relay, address) = relay_by(wrapper, folder.path(), "127.0.0.1:0", &options);
    let at: SocketAddr = relay.reported(QUIC).parse().expect("an address");
    let asked = ask(&relay);
    let pin = relay.reported(FINGERPRINT);
    let meeting = Meeting {
        folder,
        relay,
        address,
        url: format!("ptth+quic://{at}?pin={pin}"),
    };
    (meeting, asked)
}

impl Meeting {
    /// Where proxies come to by QUIC.
    pub(super) fn quic_address(&self) -> SocketAddr {
        let (address, _) = self.quic_way();
        address.parse().expect("an address")
    }

    /// The certificate that the relay shows.
    pub(super) fn pin(&self) -> &str {
        self.quic_way().1
    }

    /// Has proxies that start from now on come by another address.
    pub(super) fn lead_by(&mut self, address: SocketAddr) {
        self.url = format!("ptth+quic://{address}?pin={}", self.pin());
    }

    fn quic_way(&self) -> (&str, &str) {
        let way = self.url.strip_prefix("ptth+quic://");
        way.and_then(|way| way.split_once("?pin="))
            .expect("by QUIC")
    }
}

pub(super) fn expose(meeting: &Meeting, targets: &[&str]) -> Program {
    let options: Vec<&str> = targets.iter().flat_map(|target| ["--to", target]).collect();
    let expose = meeting.expose_with("home", &options);
    expose.logged("joined the relay");
    expose
}

#[test]
fn many_sessions_at_once_and_after_each_other() {
    let meeting = meeting(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    let (_forward, local) = meeting.forward("home");
    thread::scope(|scope| {
        for client in 0..500 {
            scope.spawn(move || check_echo(local, client, 50_000));
        }
    });
    for client in 500..504 {
        check_echo(local, client, 3_000_000);
    }
}

#[test]
fn a_server_greets_first_and_each_side_ends_by_itself() {
    let meeting = meeting(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&service(greet_and_count).to_string()]);
    let (_forward, local) = meeting.forward("home");
    check_greetings(local);
}

/// The document's own test, with its five programs: "the netcat processes [..] should now be
/// connected to each other".
#[test]
fn two_netcats() {
    let Some(nc) = require("nc.openbsd") else {
        return;
    };
    // Without -N they would not tell that there is nothing more to send.
    let start = |args: &[&str]| {
        let mut command = Command::new(&nc);
        command.args(["-v", "-n", "-N"]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        command.spawn().expect("it can be started")
    };
    let mut server = start(&["-l", "127.0.0.1", "0"]);
    let mut log = BufReader::new(server.stderr.take().expect("a pipe"));
    let mut line = String::new();
    log.read_line(&mut line).expect("text");
    let target = line.trim_end().strip_prefix("Listening on ");
    let target = target.expect("an address").replace(' ', ":");

    let meeting = meeting(&["--cores", "1"]);
    let _expose = expose(&meeting, &[&target]);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    let mut client = start(&["127.0.0.1", &local.port().to_string()]);
    hear("to the server\n", &mut client, &mut server);
    hear("to the client\n", &mut server, &mut client);
    for mut program in [client, server] {
        drop(program.stdin.take());
        let mut rest = String::new();
        let mut output = program.stdout.take().expect("a pipe");
        output.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "");
        assert!(program.wait().expect("it ends").success());
    }
}

/// What one program reads, the other one says.
fn hear(words: &str, from: &mut Child, to: &mut Child) {
    let input = from.stdin.as_mut().expect("a pipe");
    input.write_all(words.as_bytes()).expect("taken");
    let mut heard = vec![0; words.len()];
    let output = to.stdout.as_mut().expect("a pipe");
    output.read_exact(&mut heard).expect("as much");
    assert_eq!(heard, words.as_bytes());
}

#[test]
fn ssh_and_scp() {
    let meeting = meeting(&["--cores", "1"]);
    check_ssh_and_scp(meeting.folder.path(), |target| {
        let expose = expose(&meeting, &[target]);
        let (forward, local) = meeting.forward("home");
        (vec![expose, forward], local)
    });
}

#[test]
fn a_client_may_be_there_before_its_server() {
    let meeting = meeting(&["--cores", "1"]);
    let (forward, local) = meeting.forward("home");
    forward.logged("joined the relay");
    drop(dial(local));
    forward.logged("the server is not there");
    let _expose = expose(&meeting, &[&service(echo).to_string()]);
    check_echo(local, 1, 1000);
}
