//! Clients and servers by HTTP and by QUIC meet at one relay: all four pairings.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::agent_process::Program;
use super::agents::{
    assert_reset, check_echo, check_greetings, dial, echo, greet_and_count, service,
};
use super::peers::resets::reset;
use super::ptth_admin::waits_until;
use super::ptth_agents::Meeting;
use super::ptth_quic;
use super::require::require_cores;

const HTTP: &str = "http";
const QUIC: &str = "quic";
/// The client's way, and the server's.
const PAIRINGS: [[&str; 2]; 6] = [
    [QUIC, QUIC],
    [ACROSS, QUIC],
    [HTTP, QUIC],
    [QUIC, HTTP],
    [ACROSS, HTTP],
    [HTTP, HTTP],
];

/// A relay, and proxies that come to it in the one way or the other.
struct Crossing {
    meeting: Meeting,
    quic: String,
}

/// A client's way to another core than its server's.
const ACROSS: &str = "quic at the other core";

impl Crossing {
    fn new(cores: &str) -> Self {
        let meeting = ptth_quic::meeting(&["--cores", cores]);
        let quic = meeting.url.clone();
        Self { meeting, quic }
    }

    fn come_by(&mut self, way: &str) {
        self.meeting.url = match way {
            QUIC => format!("{}&steer=0", self.quic),
            ACROSS => format!("{}&steer=1", self.quic),
            _ => format!("ptth+http://{}", self.meeting.address),
        };
    }

    fn expose(&mut self, way: &str, target: SocketAddr) -> Program {
        self.come_by(way);
        let expose = self
            .meeting
            .expose_with("home", &["--to", &target.to_string()]);
        expose.logged(match way {
            QUIC | ACROSS => "joined the relay",
            _ => "listening at the relay",
        });
        expose
    }

    fn forward(&mut self, way: &str) -> (Program, SocketAddr) {
        self.come_by(way);
        let (forward, local) = self.meeting.forward("home");
        if way != HTTP {
            forward.logged("joined the relay");
        }
        (forward, local)
    }
}

/// Whatever comes, by each pairing, at relays of one core and, where they can be had, of two.
#[expect(clippy::print_stderr, reason = "libtest shows it where a test fails")]
fn each_pairing(service: SocketAddr, check: impl Fn(SocketAddr)) {
    for cores in [1, 2] {
        if cores > 1 && !require_cores(cores) {
            return;
        }
        let cores = &cores.to_string();
        let mut crossing = Crossing::new(cores);
        for [client, server] in PAIRINGS {
            let expose = crossing.expose(server, service);
            let (forward, local) = crossing.forward(client);
            let pairing = format!("{client} to {server} over {cores} cores");
            eprintln!("{pairing}");
            check(local);
            assert!(forward.stop().success(), "{pairing}");
            assert!(expose.stop().success(), "{pairing}");
        }
        assert!(crossing.meeting.relay.stop().success());
    }
}

#[test]
fn many_sessions_at_once_and_long_ones() {
    each_pairing(service(echo), |local| {
        thread::scope(|scope| {
            for client in 0..30 {
                scope.spawn(move || check_echo(local, client, 50_000));
            }
        });
        check_echo(local, 100, 3_000_000);
        check_echo(local, 101, 0);
    });
}

#[test]
fn a_server_greets_first_and_each_side_ends_by_itself() {
    each_pairing(service(greet_and_count), check_greetings);
}

/// A service that its test has by hand.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn exchange(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"hello").expect("sent");
    let mut heard = [0; 5];
    to.read_exact(&mut heard).expect("it comes");
    assert_eq!(&heard, b"hello");
}

#[test]
fn what_one_side_breaks_off_is_no_end_to_the_other() {
    let (listener, address) = listener();
    each_pairing(address, |local| {
        let client = dial(local);
        let (server, _) = listener.accept().expect("it comes");
        exchange(&client, &server);
        exchange(&server, &client);
        reset(client);
        assert_reset(&server);

        let client = dial(local);
        let (server, _) = listener.accept().expect("it comes");
        exchange(&client, &server);
        reset(server);
        assert_reset(&client);

        // One way has ended as it should.
        let client = dial(local);
        let (server, _) = listener.accept().expect("it comes");
        exchange(&client, &server);
        client.shutdown(Shutdown::Write).expect("connected");
        assert_eq!((&server).read(&mut [0]).expect("an end"), 0);
        exchange(&server, &client);
        reset(server);
        assert_reset(&client);
    });
}

#[test]
fn who_is_not_there_or_cannot_connect_is_missed() {
    if !require_cores(2) {
        return;
    }
    let (listener, closed) = listener();
    drop(listener);
    let mut crossing = Crossing::new("2");
    // By HTTP whoever asks waits for a server that may come.
    let (forward, local) = crossing.forward(QUIC);
    assert_reset(&dial(local));
    forward.logged("the server is not there");
    for [client, server] in PAIRINGS {
        let expose = crossing.expose(server, closed);
        let (forward, local) = crossing.forward(client);
        assert_reset(&dial(local));
        let (said, status) = match client {
            HTTP => ("no session", "(status 502)"),
            _ => ("cannot connect", "(status 52)"),
        };
        let line = forward.logged(said);
        assert!(line.contains(status), "{client} to {server}: {line}");
        drop((forward, expose));
    }
}

#[test]
fn the_log_says_where_both_ends_are() {
    let target = service(echo);
    let check = |crossing: &mut Crossing, [client, server]: [&str; 2]| {
        let expose = crossing.expose(server, target);
        let (forward, local) = crossing.forward(client);
        check_echo(local, 1, 1000);
        for program in [forward, expose] {
            assert!(program.stop().success(), "{client} to {server}");
        }
        let line = crossing.meeting.relay.logged(match client {
            HTTP => "tunnel ended",
            _ => "stream ended",
        });
        for end in ["left=127.0.0.1:", "right=127.0.0.1:"] {
            assert!(
                line.contains(end),
                "{client} to {server}: no {end} in {line}"
            );
        }
    };
    let mut crossing = Crossing::new("1");
    for pairing in [[QUIC, QUIC], [QUIC, HTTP], [HTTP, QUIC], [HTTP, HTTP]] {
        check(&mut crossing, pairing);
    }
    if require_cores(2) {
        let mut crossing = Crossing::new("2");
        for pairing in [[ACROSS, QUIC], [QUIC, HTTP], [ACROSS, HTTP]] {
            check(&mut crossing, pairing);
        }
    }
}

#[test]
fn a_client_by_http_waits_for_a_server_that_joins_by_quic() {
    let (mut meeting, admin) = ptth_quic::meeting_with_admin(&[]);
    let quic = std::mem::replace(&mut meeting.url, format!("ptth+http://{}", meeting.address));
    let (_forward, local) = meeting.forward("home");
    let client = thread::spawn(move || check_echo(local, 1, 1000));
    waits_until(admin, "midspan_connects_waiting", 1.0);
    meeting.url = quic;
    let _expose = meeting.expose_with("home", &["--to", &service(echo).to_string()]);
    client.join().expect("it is led there");
}
