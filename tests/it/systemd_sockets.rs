//! Sockets that somebody else has bound, and keeps: the tests have them as systemd would.

use std::fs;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::admin::ask as ask_admin;
use super::jet_client::{
    End, accept, connect, dial, granted, new_place, packet, pair, ping_pong, read_reply,
    read_to_end,
};
use super::patience::until;
use super::relay_process::{PASS_SOCKETS, Relay, start_failure};
use super::require::{require, require_cores};
use super::transports::{Leg, Role, Transport, is_closed_in_silence};

/// Sockets at one address, as many as were asked for.
struct Sockets {
    all: Vec<OwnedFd>,
    address: SocketAddr,
}

impl Sockets {
    /// As a `.socket` unit with `ReusePort=yes` has them.
    fn new(ip: [u8; 4], count: usize) -> Self {
        let mut address = SocketAddr::from((ip, 0));
        let mut all = Vec::new();
        for _ in 0..count {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_port(true).expect("a socket");
            socket.bind(&address.into()).expect("ours alone");
            socket.listen(128).expect("bound");
            let bound = socket.local_addr().expect("bound").as_socket();
            address = bound.expect("an address");
            all.push(OwnedFd::from(socket));
        }
        Self { all, address }
    }

    /// What `/proc` calls them.
    fn links(&self) -> Vec<String> {
        let link = |socket: &OwnedFd| {
            let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
            fs::read_link(path)
                .expect("ours")
                .to_string_lossy()
                .into_owned()
        };
        self.all.iter().map(link).collect()
    }
}

/// Hands descriptors to the next program that asks for them.
struct Passing {
    words: [String; 4],
    passed: JoinHandle<()>,
    _folder: TempDir,
}

impl Passing {
    fn new(sockets: &[&OwnedFd], names: &str) -> Option<Self> {
        let python = require("python3")?;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pass");
        let listener = UnixListener::bind(&path).expect("a new path");
        let own = sockets
            .iter()
            .map(|socket| socket.try_clone().expect("room"));
        let own: Vec<OwnedFd> = own.collect();
        let passed = thread::spawn(move || {
            let (peer, _) = listener.accept().expect("it asks");
            let own: Vec<_> = own.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            assert!(rights.push(SendAncillaryMessage::ScmRights(&own)));
            let byte = [IoSlice::new(&[0])];
            sendmsg(&peer, &byte, &mut rights, SendFlags::empty()).expect("sent");
        });
        let path = path.to_str().expect("text").to_owned();
        let python = python.to_str().expect("text").to_owned();
        Some(Self {
            words: [python, PASS_SOCKETS.to_owned(), path, names.to_owned()],
            passed,
            _folder: folder,
        })
    }

    fn start(self, options: &[&str]) -> Relay {
        let relay = Relay::start_by(&self.words.each_ref().map(String::as_str), options);
        self.passed.join().expect("passed on");
        relay
    }

    /// The relay refuses to start and says these things.
    #[track_caller]
    fn check_refused(self, options: &[&str], code: i32, parts: &[&str]) {
        let words = self.words.each_ref().map(String::as_str);
        let (got, text) = start_failure(&words, options);
        self.passed.join().expect("passed on");
        assert_eq!(got, Some(code), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing: {text}");
        }
    }
}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

#[test]
fn each_shard_serves_a_socket_of_its_own() {
    if !require_cores(2) {
        return;
    }
    let sockets = Sockets::new(LOOPBACK, 2);
    let [one, other] = &sockets.all[..] else {
        unreachable!("two were asked for");
    };
    let Some(passing) = Passing::new(&[one, other], "midspan.socket:midspan.socket") else {
        return;
    };
    let mut relay = passing.start(&["--cores", "2"]);
    assert_eq!(relay.addresses, [sockets.address]);
    let mut pairs: Vec<_> = (0..32)
        .map(|_| pair(sockets.address, new_place()))
        .collect();
    for (acceptor, connector) in &mut pairs {
        ping_pong(acceptor, connector);
    }
    relay.signal(Signal::USR1);
    for _shard in 0..2 {
        let line = relay.wait_for_line(": counters shard=");
        assert!(line.contains(" counters=accepted="), "{line}");
    }
    drop(pairs);
    relay.stop().check_clean();
}

#[test]
fn sockets_that_do_not_suit_are_refused_with_the_next_step() {
    let three = Sockets::new(LOOPBACK, 3);
    let [first, second, third] = &three.all[..] else {
        unreachable!("three were asked for");
    };
    let address = three.address.to_string();
    let check = |sockets: &[&OwnedFd], names: &str, options: &[&str], code, parts: &[&str]| {
        if let Some(passing) = Passing::new(sockets, names) {
            passing.check_refused(options, code, parts);
        }
    };
    let one_core = ["--cores", "1"];
    let counted = format!("{address}: 3; shards, which need one each: 1");
    let parts = [&counted, "next: in the .socket unit", "--cores 3"];
    check(&[first, second, third], "", &one_core, 1, &parts);

    let other = ["--cores", "1", "--listen", "127.0.0.1:0"];
    let bound = format!("--listen: systemd has bound {address}, and this asks for others");
    check(&[first], "", &other, 2, &[&bound, "next: leave it out"]);

    let slip = [
        "\"jet+tsl\" is none of jet+tcp",
        "next: correct FileDescriptorName=",
    ];
    check(&[first], "jet+tsl", &one_core, 1, &slip);

    let wildcard = Sockets::new([0, 0, 0, 0], 1);
    let reached = format!(
        "systemd: {} can be reached from other hosts",
        wildcard.address
    );
    let parts = [&reached, "next: pass --open"];
    check(&[&wildcard.all[0]], "", &one_core, 1, &parts);
    check(
        &[&wildcard.all[0]],
        "admin",
        &one_core,
        1,
        &["systemd: ", "who looks"],
    );

    // A connection, as `Accept=yes` passes them, and what is no socket at all.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let file = fs::File::open("/dev/null").expect("there");
    let parts = [
        "descriptor 4 is not a TCP socket that listens",
        "next: in the .socket unit",
    ];
    check(&[first, &stream.into()], "", &one_core, 1, &parts);
    check(&[first, &file.into()], "", &one_core, 1, &parts);
}

#[test]
fn names_say_what_sockets_are_for() {
    let tls = Sockets::new(LOOPBACK, 1);
    let all = Sockets::new(LOOPBACK, 1);
    let admin = Sockets::new(LOOPBACK, 1);
    let sockets = [&tls.all[0], &admin.all[0], &all.all[0]];
    let Some(passing) = Passing::new(&sockets, "jet+tls:admin:midspan.socket") else {
        return;
    };
    let relay = passing.start(&["--cores", "1"]);
    assert_eq!(relay.addresses, [tls.address, all.address]);
    assert_eq!(relay.admin, Some(admin.address));
    assert_eq!(ask_admin(admin.address, "/readyz").0, 200);
    let place = new_place();
    let mut acceptor = Leg::come(all.address, Transport::Tcp, Role::Accept, place, b"");
    let mut connector = Leg::come(tls.address, Transport::Tls, Role::Connect, place, b"");
    connector.write_all(b"hello");
    acceptor.expect(b"hello");
    assert!(is_closed_in_silence(
        tls.address,
        Transport::Tcp,
        new_place()
    ));
}

#[test]
fn who_waits_over_a_restart_is_served_by_the_next_relay() {
    let sockets = Sockets::new(LOOPBACK, 1);
    let (address, socket) = (sockets.address, &sockets.all[0]);
    let options = ["--cores", "1", "--drain-timeout", "1h"];
    let Some(passing) = Passing::new(&[socket], "") else {
        return;
    };
    let relay = passing.start(&options);
    let (mut acceptor, mut connector) = pair(address, new_place());
    relay.signal(Signal::TERM);
    let links = sockets.links();
    until("the relay to let go of the socket", || {
        let open = fs::read_dir(relay.proc("fd")).expect("it runs");
        let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let mut held = open.filter(|link| links.iter().any(|own| link.as_os_str() == own.as_str()));
        held.next().is_none().then_some(())
    });
    // It drains, and who comes now waits for the next.
    let place = new_place();
    let ask = |request| {
        let mut stream = dial(address);
        stream.write_all(&packet(&request)).expect("sent");
        stream
    };
    let mut waiting = ask(accept(place));
    ping_pong(&mut acceptor, &mut connector);
    drop((acceptor, connector));
    let ended = relay.wait();
    ended.check_clean();
    assert_eq!(ended.counters.count("accepted"), 2);
    // As do those who come while there is none.
    let mut late: Vec<_> = (0..20).map(|_| ask(accept(new_place()))).collect();

    let next = Passing::new(&[socket], "")
        .expect("as before")
        .start(&options);
    for stream in late.iter_mut().chain([&mut waiting]) {
        assert_eq!(read_reply(stream).status.as_u16(), 200);
    }
    let mut joined = granted(address, &connect(place));
    ping_pong(&mut joined, &mut waiting);
    drop((joined, waiting));
    next.signal(Signal::TERM);
    for stream in &mut late {
        assert_eq!(read_to_end(stream), (Vec::new(), End::Closed));
    }
    next.wait().check_clean();
}
