//! PTTH over QUIC by numbers, as in the document's old table.

use std::io::{self, Write};
use std::net::TcpStream;

use midspan::protocol::ptth_quic::{Inner, LateInner, Role};
use quinn_proto::StreamId;

use super::agent_process::Program;
use super::agents::{echo, service};
use super::peers::quic_peer::{Heard, QuicPeer};
use super::ptth_agents::{Meeting, key, key_file};
use super::ptth_quic::meeting_with_file;
use super::ptth_quic_bad_input::expect_refused;
use super::ptth_quic_certificates::Holder;

const VAULT: u8 = 7;
const ATTIC: u8 = 8;
const CAROL: u8 = 9;

/// A relay that knows the server `vault`, and the client `carol`, who reaches all, by certificate
/// and number; the server `attic` by key and number; and the clients `dave`, who reaches a port of
/// the vault's, and `erin`, who reaches all and has no number.
struct Numbered {
    meeting: Meeting,
    vault: Holder,
    carol: Holder,
}

impl Numbered {
    fn new() -> Self {
        let [vault, carol] = [(); 2].map(|()| Holder::new());
        let by_key = |role: &str, name: &str, more: &str| {
            let hash = key(name).hash();
            format!("[[ptth.{role}]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{more}\n")
        };
        let of_carol = format!("legacy_id = {CAROL}\nmay = [\"*\"]");
        let more = [
            vault.listed("servers", "vault", &format!("legacy_id = {VAULT}")),
            by_key("servers", "attic", &format!("legacy_id = {ATTIC}")),
            carol.listed("clients", "carol", &of_carol),
            by_key("clients", "dave", "may = [\"vault:22\"]"),
            by_key("clients", "erin", "may = [\"vault\"]"),
        ];
        let (meeting, _) = meeting_with_file(&more.concat(), &["--cores", "2"]);
        Self {
            meeting,
            vault,
            carol,
        }
    }

    /// A proxy of theirs that has said its number.
    #[track_caller]
    fn joined(&self, holder: &Holder, hello: [u8; 4]) -> QuicPeer {
        let mut peer = holder.connect(&self.meeting);
        let stream = peer.open_with(&hello);
        assert_eq!(peer.hear(stream, 4), [20, hello[0], 0, 0]);
        peer
    }

    fn carol(&self) -> QuicPeer {
        self.joined(&self.carol, [2, CAROL, 0, 0])
    }

    fn vault(&self) -> QuicPeer {
        self.joined(&self.vault, [4, VAULT, 0, 0])
    }
}

/// Opens a stream to a server, which is there.
#[track_caller]
fn open(client: &mut QuicPeer, server: u8) -> StreamId {
    let stream = client.open_with(&[10, server, 0, 0]);
    assert_eq!(client.hear(stream, 4), [20, 10, 0, 0]);
    stream
}

#[test]
fn what_follows_the_answers_passes_as_it_is() {
    let numbered = Numbered::new();
    let (mut carol, mut vault) = (numbered.carol(), numbered.vault());
    // Before the server has said anything.
    let here = open(&mut carol, VAULT);
    let there = vault.accept();
    assert_eq!(vault.hear(there, 4), [11, CAROL, 0, 0]);
    // What the client does not wait for is not lost.
    carol.say(here, &[12, 3, 0, 0]);
    vault.say(there, &[20, 11, 0, 0]);
    assert_eq!(vault.hear(there, 4), [12, 3, 0, 0]);
    vault.say(there, b"\x14\x0c\0\0welcome");
    assert_eq!(carol.hear(here, 11), b"\x14\x0c\0\0welcome");
    carol.say(here, b"thanks");
    carol.finish(here);
    let heard = vault.hear_all(there);
    let bytes = b"thanks".to_vec();
    assert_eq!(heard, Heard { bytes, reset: None });
    vault.finish(there);
    let bytes = Vec::new();
    assert_eq!(carol.hear_all(here), Heard { bytes, reset: None });
}

#[test]
fn a_client_without_a_number_is_0() {
    let numbered = Numbered::new();
    let mut erin = QuicPeer::join(&numbered.meeting, Role::ClientSide, "erin").0;
    let mut vault = numbered.vault();
    open(&mut erin, VAULT);
    let there = vault.accept();
    assert_eq!(vault.hear(there, 4), [11, 0, 0, 0]);
}

#[test]
fn a_server_that_refuses_breaks_off_what_was_opened() {
    let numbered = Numbered::new();
    let (mut carol, mut vault) = (numbered.carol(), numbered.vault());
    let here = open(&mut carol, VAULT);
    let there = vault.accept();
    assert_eq!(vault.hear(there, 4), [11, CAROL, 0, 0]);
    vault.say(there, &[53, 11, 0, 0]);
    let heard = carol.hear_all(here);
    assert_eq!((heard.bytes, heard.reset), (Vec::new(), Some(53)));
}

/// Exposes as the vault at the relay's other core.
fn expose(numbered: &Numbered, options: &[&str]) -> Program {
    let meeting = &numbered.meeting;
    let url = format!("{}&steer=1", meeting.url);
    let expose = numbered.vault.expose_by(meeting, &url, "vault", options);
    expose.logged("joined the relay");
    expose
}

fn first(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"1")?;
    echo(stream)
}

fn second(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"2")?;
    echo(stream)
}

#[test]
fn the_proxy_counts_its_services_from_1_on() {
    let numbered = Numbered::new();
    let services = [
        format!("22={}", service(first)),
        format!("web={}", service(second)),
    ];
    let _expose = expose(&numbered, &["--to", &services[0], "--to", &services[1]]);
    let mut carol = numbered.carol();
    let by_name = |target: &str| {
        let mut message = Vec::new();
        let inner = Inner {
            client_port: 51_000,
            target: target.parse().expect("a name"),
        };
        LateInner::Layered(inner).encode(&mut message);
        message
    };
    for (asked, greeting) in [
        (vec![12, 1, 0, 0], b'1'),
        (vec![12, 2, 0, 0], b'2'),
        (by_name("22"), b'1'),
        (by_name("web"), b'2'),
    ] {
        let stream = open(&mut carol, VAULT);
        carol.say(stream, &asked);
        assert_eq!(carol.hear(stream, 5), [20, 12, 0, 0, greeting]);
        carol.say(stream, b"echo");
        assert_eq!(carol.hear(stream, 4), b"echo");
        carol.finish(stream);
    }
    for asked in [vec![12, 0, 0, 0], vec![12, 3, 0, 0], by_name("80")] {
        let stream = open(&mut carol, VAULT);
        carol.say(stream, &asked);
        let bytes = vec![43, 12, 0, 0];
        assert_eq!(carol.hear_all(stream), Heard { bytes, reset: None });
        carol.finish(stream);
    }
    let stream = open(&mut carol, VAULT);
    carol.say(stream, &[10, 1, 0, 0]);
    let bytes = vec![40, 10, 0, 0];
    assert_eq!(carol.hear_all(stream), Heard { bytes, reset: None });
}

#[test]
fn a_number_is_for_those_who_reach_all_of_a_server_that_is_there() {
    let numbered = Numbered::new();
    let meeting = &numbered.meeting;
    let mut vault = numbered.vault();
    let mut carol = numbered.carol();
    let mut dave = QuicPeer::join(meeting, Role::ClientSide, "dave").0;
    let mut alice = QuicPeer::join(meeting, Role::ClientSide, "alice").0;
    let refused = |client: &mut QuicPeer, server: u8, status: u8| {
        let stream = client.open_with(&[10, server, 0, 0]);
        expect_refused(client, stream, status, 10);
    };
    refused(&mut dave, VAULT, 43);
    refused(&mut alice, VAULT, 43);
    refused(&mut carol, 0, 43);
    refused(&mut carol, 99, 43);
    refused(&mut carol, ATTIC, 44);
    // One that listens by HTTP listens at a port.
    let file = key_file(meeting.folder.path(), "attic");
    let (url, target) = (format!("ptth+http://{}", meeting.address), service(echo));
    let args = ["expose", "attic", "--relay", &url, "--key-file", &file];
    let attic = Program::start(&[&args[..], &["--to", &target.to_string()]].concat());
    attic.logged("listening at the relay");
    refused(&mut carol, ATTIC, 44);
    open(&mut carol, VAULT);
    vault.accept();
}

#[test]
fn a_number_in_a_hello_is_that_of_the_certificate() {
    let numbered = Numbered::new();
    let meeting = &numbered.meeting;
    let refused = |mut peer: QuicPeer, hello: [u8; 4]| {
        let stream = peer.open_with(&hello);
        expect_refused(&mut peer, stream, 41, hello[0]);
        assert_eq!(peer.closed(), 0x11);
    };
    let without = || QuicPeer::connect(meeting);
    refused(without(), [2, CAROL, 0, 0]);
    refused(without(), [4, VAULT, 0, 0]);
    refused(numbered.carol.connect(meeting), [2, VAULT, 0, 0]);
    refused(numbered.carol.connect(meeting), [2, 0, 0, 0]);
    refused(numbered.carol.connect(meeting), [4, CAROL, 0, 0]);
    refused(Holder::new().connect(meeting), [2, CAROL, 0, 0]);
}
