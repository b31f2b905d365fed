//! Both ends of a tunnel in one test, on sockets of this process.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::protocol::jproxy::{ChannelId, ConnectStatus, DATA_BYTES_MAX};
use crate::protocol::socks5::{Destination, Host};

pub(super) const KEY: SessionKey = SessionKey(*b"0123456789abcdef");
pub(super) const STUCK: Duration = Duration::from_secs(2);
const ALL: [Readiness; 2] = [Readiness::READABLE, Readiness::WRITABLE];

struct Rig {
    client: MuxPlane,
    server: MuxPlane,
    tunnels: [Key; 2],
    now: Timestamp,
    /// What either plane had to say that is not seen to here.
    events: [Vec<MuxEvent>; 2],
}

pub(super) fn socket(stream: UnixStream) -> Socket {
    Socket::adopt(stream.into()).expect("a socket")
}

pub(super) fn start(plane: &mut MuxPlane, stream: UnixStream, role: Role, dialect: Dialect) -> Key {
    plane.start(TunnelStart {
        socket: socket(stream),
        codec: None,
        early: Vec::new(),
        key: KEY,
        role,
        dialect,
        channels_max: 64,
    })
}

fn somewhere() -> Destination {
    Destination {
        host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: 80,
    }
}

impl Rig {
    fn new(dialect: Dialect) -> Self {
        let (here, there) = UnixStream::pair().expect("sockets");
        let (mut client, mut server) = (MuxPlane::new(STUCK), MuxPlane::new(STUCK));
        let tunnels = [
            start(&mut client, here, Role::Client, dialect),
            start(&mut server, there, Role::Server, dialect),
        ];
        Self {
            client,
            server,
            tunnels,
            now: Timestamp::default(),
            events: [Vec::new(), Vec::new()],
        }
    }

    /// Lets both do all that they can.
    fn settle(&mut self) {
        for _ in 0..40 {
            for (plane, events) in [&mut self.client, &mut self.server]
                .into_iter()
                .zip(&mut self.events)
            {
                for index in 0..48 {
                    for readiness in ALL {
                        plane.handle_tunnel(index, readiness);
                        plane.handle_channel(index, readiness);
                    }
                }
                plane.run(self.now);
                while let Some(mut event) = plane.poll_event() {
                    if let MuxEvent::Ended(ended) = &mut event {
                        drop(ended.socket.take());
                    }
                    events.push(event);
                }
            }
        }
    }

    /// A channel with this number; gives the programs at its ends.
    fn channel(&mut self, id: ChannelId) -> [UnixStream; 2] {
        let asked = Asked::Connect(id, somewhere());
        let key = self.client.ask(self.tunnels[0], &asked, self.now);
        let key = key.expect("a channel");
        self.settle();
        let asked_for = self.events[1].iter().rev().find_map(|event| match event {
            MuxEvent::Asked { channel, asked, .. } if asked.id() == id => Some(*channel),
            _ => None,
        });
        let asked_for = asked_for.expect("it was asked for");
        let (origin, its_end) = UnixStream::pair().expect("sockets");
        let answer = Answer::Connect {
            status: ConnectStatus::Connected,
            took_ms: 1,
        };
        let end = LocalEnd::Stream(socket(its_end));
        let opened = self.server.open(asked_for, end, Some(answer), self.now);
        opened.expect("it is there");
        self.settle();
        let (program, its_end) = UnixStream::pair().expect("sockets");
        let end = LocalEnd::Stream(socket(its_end));
        self.client
            .open(key, end, None, self.now)
            .expect("it is there");
        self.settle();
        for stream in [&program, &origin] {
            stream.set_nonblocking(true).expect("set");
        }
        [program, origin]
    }

    /// How the channels of both ended, in order.
    fn ended(&self) -> [Vec<(ChannelId, CloseReason, Carried)>; 2] {
        [0, 1].map(|side: usize| {
            let ended = |event: &MuxEvent| match event {
                MuxEvent::Ended(ended) => Some((ended.id, ended.reason, ended.bytes)),
                _ => None,
            };
            self.events[side].iter().filter_map(ended).collect()
        })
    }
}

fn read_all(rig: &mut Rig, stream: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    for _ in 0..1000 {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, true),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(_) => {
                let before = bytes.len();
                rig.settle();
                if let Ok(count) = stream.read(&mut buffer) {
                    bytes.extend_from_slice(&buffer[..count]);
                    if count == 0 {
                        return (bytes, true);
                    }
                }
                if bytes.len() == before {
                    return (bytes, false);
                }
            }
        }
    }
    panic!("it has no end");
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|n| u8::try_from((n * 31 + seed + n / 251) % 256).expect("a byte"))
        .collect()
}

#[test]
fn bytes_go_both_ways_in_order_and_to_the_end() {
    for dialect in [Dialect::Spec, Dialect::Original] {
        let mut rig = Rig::new(dialect);
        let mut ends = [rig.channel(1), rig.channel(0x0203)];
        for size in [1, 15, DATA_BYTES_MAX, DATA_BYTES_MAX + 1, 100_000] {
            for (seed, [program, origin]) in ends.iter_mut().enumerate() {
                for (from, to) in [(0, 1), (1, 0)] {
                    let streams = [&mut *program, &mut *origin];
                    let expected = pattern(size, seed + size + from);
                    let mut came = Vec::new();
                    let mut sent = 0;
                    while came.len() < size {
                        sent += streams[from].write(&expected[sent..]).unwrap_or(0);
                        let (more, is_end) = read_all(&mut rig, streams[to]);
                        assert!(!is_end);
                        came.extend(more);
                    }
                    assert!(came == expected, "{dialect:?} {size} {from}");
                }
            }
        }
        assert_eq!(rig.ended(), [vec![], vec![]]);
    }
}

/// A local program has its answer before it becomes an end; much can come by then.
#[test]
fn nothing_is_lost_before_a_clients_end_is_there() {
    for dialect in [Dialect::Spec, Dialect::Original] {
        let mut rig = Rig::new(dialect);
        let asked = Asked::Connect(7, somewhere());
        let key = rig.client.ask(rig.tunnels[0], &asked, rig.now);
        let key = key.expect("a channel");
        rig.settle();
        let [
            MuxEvent::Asked {
                channel: asked_for, ..
            },
        ] = rig.events[1][..]
        else {
            panic!("{:?}", rig.events);
        };
        let (mut origin, its_end) = UnixStream::pair().expect("sockets");
        origin.write_all(b"all that it says").expect("sent");
        origin.shutdown(std::net::Shutdown::Write).expect("shut");
        let answer = Answer::Connect {
            status: ConnectStatus::Connected,
            took_ms: 1,
        };
        let end = LocalEnd::Stream(socket(its_end));
        let opened = rig.server.open(asked_for, end, Some(answer), rig.now);
        opened.expect("it is there");
        rig.settle();
        let early = pattern(DATA_BYTES_MAX + 1, 7);
        rig.client.send_early(key, &early);
        let (mut program, its_end) = UnixStream::pair().expect("sockets");
        let end = LocalEnd::Stream(socket(its_end));
        let opened = rig.client.open(key, end, None, rig.now);
        opened.expect("it is there");
        rig.settle();
        for stream in [&program, &origin] {
            stream.set_nonblocking(true).expect("set");
        }
        let heard = read_all(&mut rig, &mut program);
        assert_eq!(heard, (b"all that it says".to_vec(), true));
        // The other dialect ends both ways at once.
        if dialect == Dialect::Spec {
            assert_eq!(read_all(&mut rig, &mut origin), (early, false));
        }
    }
}

#[test]
fn what_the_document_has_ends_each_way_for_itself() {
    let mut rig = Rig::new(Dialect::Spec);
    let [mut program, mut origin] = rig.channel(7);
    program.write_all(b"a question").expect("sent");
    program.shutdown(std::net::Shutdown::Write).expect("shut");
    let heard = read_all(&mut rig, &mut origin);
    assert_eq!(heard, (b"a question".to_vec(), true));
    assert_eq!(rig.ended(), [vec![], vec![]]);
    origin.write_all(b"an answer").expect("sent");
    drop(origin);
    let heard = read_all(&mut rig, &mut program);
    assert_eq!(heard, (b"an answer".to_vec(), true));
    let carried = |delivered, sent| Carried { delivered, sent };
    let [at_client, at_server] = rig.ended();
    assert_eq!(at_client.len(), 1);
    assert_eq!(at_client[0].2, carried(9, 10));
    assert!(matches!(at_client[0].1, CloseReason::Finished(Side::Left)));
    assert_eq!(
        at_server,
        [(7, CloseReason::Finished(Side::Left), carried(10, 9))]
    );
    let is_free = |events: &[MuxEvent]| {
        let free = |event: &MuxEvent| matches!(event, MuxEvent::Ended(ended) if ended.is_free);
        events.iter().any(free)
    };
    assert!(is_free(&rig.events[0]) && is_free(&rig.events[1]));
}

#[test]
fn the_other_dialects_end_is_that_of_both_ways_behind_the_last_byte() {
    let mut rig = Rig::new(Dialect::Original);
    let [mut program, mut origin] = rig.channel(7);
    origin.write_all(b"the last words").expect("sent");
    drop(origin);
    let heard = read_all(&mut rig, &mut program);
    assert_eq!(heard, (b"the last words".to_vec(), true));
    let [at_client, at_server] = rig.ended();
    assert_eq!((at_client.len(), at_server.len()), (1, 1));
    // The number is free for the client, who has heard the end and said it.
    assert!(
        rig.client
            .ask(rig.tunnels[0], &Asked::Connect(7, somewhere()), rig.now)
            .is_some()
    );
}

#[test]
fn what_is_broken_off_is_broken_off_at_the_other_end() {
    for dialect in [Dialect::Spec, Dialect::Original] {
        let mut rig = Rig::new(dialect);
        let [mut program, origin] = rig.channel(7);
        // What it has not read makes its close a reset.
        program.write_all(b"unread").expect("sent");
        rig.settle();
        drop(origin);
        program.write_all(b"more").expect("sent");
        rig.settle();
        let [at_client, at_server] = rig.ended();
        assert!(
            matches!(at_server[0].1, CloseReason::Reset(Side::Right)),
            "{at_server:?}"
        );
        assert_eq!(at_client.len(), 1, "{dialect:?}");
        drop(program);
    }
}

#[test]
fn a_channel_that_is_stuck_holds_up_the_others_for_so_long_and_no_longer() {
    let mut rig = Rig::new(Dialect::Spec);
    let [mut stuck, _nobody_reads] = rig.channel(1);
    let [mut program, mut origin] = rig.channel(2);
    let mut poured = 0;
    for _ in 0..200 {
        poured += stuck.write(&[7; 8192]).unwrap_or(0);
        rig.settle();
    }
    assert!(poured > QUEUE_BYTES_MAX);
    let (tunnel, _) = rig.server.tunnels.get(rig.tunnels[1]).expect("it is there");
    assert!(tunnel.held.is_some() && tunnel.queued_bytes >= QUEUE_BYTES_MAX);
    assert!(tunnel.queued_bytes < QUEUE_BYTES_MAX + 4 * 65_536);
    program.write_all(b"held up").expect("sent");
    assert_eq!(read_all(&mut rig, &mut origin), (Vec::new(), false));
    assert_eq!(rig.server.next_deadline(), Some(rig.now + STUCK));
    rig.now = rig.now + STUCK;
    assert_eq!(
        read_all(&mut rig, &mut origin),
        (b"held up".to_vec(), false)
    );
    let [at_client, at_server] = rig.ended();
    assert_eq!(at_server[0].1, CloseReason::TimedOut(Side::Right));
    assert_eq!(at_client[0].1, CloseReason::TimedOut(Side::Right));
    assert_eq!(rig.server.counts().stuck, 1);
    let (tunnel, _) = rig.server.tunnels.get(rig.tunnels[1]).expect("it is there");
    assert_eq!((tunnel.held, tunnel.queued_bytes), (None, 0));
}

/// Channels with a little each, until all of that together holds up their tunnel.
struct Crowd {
    rig: Rig,
    ends: Vec<[UnixStream; 2]>,
    /// What went into each, in bytes, and what has come out.
    poured: Vec<usize>,
    came: Vec<usize>,
}

impl Crowd {
    fn new() -> Self {
        let mut rig = Rig::new(Dialect::Spec);
        let mut ends: Vec<_> = (0..40).map(|id| rig.channel(id)).collect();
        let mut poured = vec![0; ends.len()];
        for _ in 0..60 {
            for ([program, _], poured) in ends.iter_mut().zip(&mut poured) {
                *poured += program.write(&[7; 8192]).unwrap_or(0);
            }
            rig.settle();
        }
        let crowd = Self {
            came: vec![0; ends.len()],
            rig,
            ends,
            poured,
        };
        assert!(crowd.held().0 && crowd.held().1 >= TUNNEL_BYTES_MAX);
        crowd
    }

    /// Whether the tunnel is held up, and how many bytes wait.
    fn held(&self) -> (bool, usize) {
        let tunnel = self.rig.server.tunnels.get(self.rig.tunnels[1]);
        let (tunnel, _) = tunnel.expect("it is there");
        (tunnel.held.is_some(), tunnel.queued_bytes)
    }

    /// Reads all that comes out of these.
    fn read(&mut self, which: impl Iterator<Item = usize>) {
        for index in which {
            let (bytes, is_end) = read_all(&mut self.rig, &mut self.ends[index][1]);
            assert!(!is_end);
            self.came[index] += bytes.len();
        }
    }
}

/// Nobody is to blame alone: what holds the tunnel up is what waits in all of them.
#[test]
fn many_channels_with_a_little_each_are_waited_for_and_none_is_given_up() {
    let mut crowd = Crowd::new();
    // Whoever is to blame is read first, and the others still hold the tunnel up.
    for _ in 0..100 {
        crowd.read(0..40);
        if crowd.came == crowd.poured {
            break;
        }
    }
    assert_eq!(crowd.came, crowd.poured);
    assert_eq!(crowd.held(), (false, 0));
    assert_eq!(crowd.rig.ended(), [vec![], vec![]]);
}

/// Of those that nobody reads as many are given up as have to be.
#[test]
fn of_many_channels_that_hold_up_their_tunnel_those_are_given_up_that_take_nothing() {
    let mut crowd = Crowd::new();
    // An eighth takes something, which is too little to have the tunnel read again.
    crowd.read(0..5);
    assert!(crowd.held().0);
    assert_eq!(crowd.rig.ended(), [vec![], vec![]]);
    crowd.rig.now = crowd.rig.now + STUCK;
    crowd.rig.settle();
    let stuck = usize::try_from(crowd.rig.server.counts().stuck).expect("few");
    // Half of what the tunnel may hold, and no more than that is left.
    assert!((10..35).contains(&stuck), "{stuck}");
    let [_, at_server] = crowd.rig.ended();
    assert_eq!(at_server.len(), stuck);
    for (id, reason, _) in at_server {
        assert!(id >= 5, "{id} was read");
        assert_eq!(reason, CloseReason::TimedOut(Side::Right));
    }
    for _ in 0..100 {
        crowd.read(0..5);
    }
    assert_eq!(crowd.came[..5], crowd.poured[..5]);
}

#[test]
fn who_breaks_off_after_it_has_ended_its_way_says_so() {
    let mut rig = Rig::new(Dialect::Spec);
    let [program, mut origin] = rig.channel(7);
    program.shutdown(std::net::Shutdown::Write).expect("shut");
    rig.settle();
    assert_eq!(read_all(&mut rig, &mut origin), (vec![], true));
    drop(program);
    for _ in 0..3 {
        // What nobody reads any more breaks it off, and is known to the other side.
        let _ = origin.write(&[7; 1000]);
        rig.settle();
    }
    let [at_client, at_server] = rig.ended();
    assert!(
        matches!(at_client[0].1, CloseReason::Reset(Side::Left)),
        "{at_client:?}"
    );
    assert!(
        matches!(at_server[0].1, CloseReason::Reset(Side::Left)),
        "{at_server:?}"
    );
    assert_eq!(rig.server.channels(), 0);
}

#[test]
fn a_channel_that_is_slow_is_waited_for() {
    let mut rig = Rig::new(Dialect::Spec);
    let [mut program, mut origin] = rig.channel(1);
    let expected = pattern(2 << 20, 3);
    let (mut sent, mut came) = (0, Vec::new());
    let mut buffer = vec![0; 40_000];
    while came.len() < expected.len() {
        for _ in 0..4 {
            sent += program.write(&expected[sent..]).unwrap_or(0);
        }
        rig.settle();
        rig.now = rig.now + STUCK / 8;
        if let Ok(count) = origin.read(&mut buffer) {
            came.extend_from_slice(&buffer[..count]);
        }
    }
    assert!(came == expected);
    assert_eq!(rig.ended(), [vec![], vec![]]);
}
