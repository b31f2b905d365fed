//! The gate: a client that reads its reply with one `read` and throws the rest away still gets
//! every byte that the acceptor sent before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use midspan::protocol::Progress;
use midspan::protocol::jet::{Reply, Request};
use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;

use super::jet_client::{
    accept, connect, dial, granted, implicit, in_version_1, minted, new_place, packet,
};
use super::network_namespace::NetworkNamespace;
use super::patience::until;
use super::relay_process::Relay;
use super::require::{require, require_root};

const ROUNDS_COUNT: usize = 200;
const THREADS_COUNT: usize = 20;
const BANNER: &[u8] = b"SSH-2.0-banner\r\n";

/// Drops the first segment with data that the relay sends on each connection to a connector: the
/// reply. The mark stays with the connection, so what is sent again passes.
const LOSE_FIRST_REPLY: &str = "
table inet midspan {
    chain input {
        type filter hook input priority 0;
        tcp sport 7777 tcp flags & psh == psh ct mark != 1 ct mark set 1 counter drop
    }
}
";

/// A connector as they are in the field.
struct ForeignClient(TcpStream);

impl ForeignClient {
    /// One `read` for the reply; whatever else it brings is lost.
    fn connect(relay: SocketAddr, request: &Request) -> Self {
        let mut stream = dial(relay);
        stream.write_all(&packet(request)).expect("sent");
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).expect("a reply");
        let Ok(Progress::Complete { value, .. }) = Reply::decode(&buffer[..count]) else {
            panic!("a reply in pieces: {count} bytes");
        };
        assert_eq!(value.status.as_u16(), 200);
        Self(stream)
    }

    /// Whether the banner, whole, is the first that it gets.
    fn gets_banner(mut self) -> bool {
        let mut buffer = [0; BANNER.len()];
        self.0.read_exact(&mut buffer).is_ok() && buffer == BANNER
    }
}

/// An acceptor that spoke first, in either version, and the request that leads to it.
fn acceptor(relay: SocketAddr, round: usize) -> (TcpStream, Request) {
    let (mut acceptor, request) = if round.is_multiple_of(2) {
        let place = new_place();
        (granted(relay, &accept(place)), connect(place))
    } else {
        let (acceptor, association) = minted(relay);
        (acceptor, in_version_1(connect(implicit(association))))
    };
    acceptor.write_all(BANNER).expect("sent");
    (acceptor, request)
}

/// How many of these rounds' connectors got their banner.
fn banners(relay: SocketAddr, rounds: impl Iterator<Item = usize>) -> usize {
    // The gate gives a client 10 ms to be scheduled and to read. On a machine that is busy with
    // other tests it needs to come before them; without privilege it stays as it is.
    let _ = setpriority_process(
        Some(Pid::from_raw(gettid().as_raw_nonzero().get()).expect("valid")),
        -20,
    );
    rounds
        .filter(|round| {
            let (mut acceptor, request) = acceptor(relay, *round);
            let client = ForeignClient::connect(relay, &request);
            let got = client.gets_banner();
            // Nothing was sent the other way, and that way is open.
            let _ = acceptor.flush();
            got
        })
        .count()
}

#[test]
fn every_banner_arrives() {
    let relay = Relay::start(&[]);
    let got = thread::scope(|scope| {
        scope
            .spawn(|| banners(relay.address, 0..ROUNDS_COUNT))
            .join()
            .expect("no panic")
    });
    assert_eq!(got, ROUNDS_COUNT);
}

#[test]
fn every_banner_arrives_when_the_reply_is_lost_once() {
    if !require_root()
        || ["unshare", "nft", "ip"]
            .iter()
            .any(|name| require(name).is_none())
    {
        return;
    }
    let namespace = NetworkNamespace::new(LOSE_FIRST_REPLY);
    namespace.run(|| {
        let relay = Relay::start(&["--listen", "127.0.0.1:7777"]);
        let got: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS_COUNT)
                .map(|first| {
                    let rounds = (first..ROUNDS_COUNT).step_by(THREADS_COUNT);
                    let address = relay.address;
                    scope.spawn(move || banners(address, rounds))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum()
        });
        assert_eq!(got, ROUNDS_COUNT);
        // Each accept reply and each connect reply was lost once.
        let lost = until("nft's answer", dropped_packets);
        assert_eq!(lost, 2 * ROUNDS_COUNT);
    });
}

/// What the rule has counted.
fn dropped_packets() -> Option<usize> {
    let output = std::process::Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, rest) = text.split_once("counter packets ")?;
    rest.split_whitespace().next()?.parse().ok()
}
