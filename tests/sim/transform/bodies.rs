//! Pairs of a request with a body and an answer with one: the engine over real sockets,
//! with peers made up from a seed.
//!
//! The shadow model is the whole body as it goes on the wire, written here anew: chunks of
//! all sizes, with extensions and trailers, or bytes of a known length. What the answer's
//! peer gets is the beginning of that at any time, and all of it before an end; a body that
//! is not whole, or none, never looks like one. What is behind a body arrives nowhere.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use midspan::protocol::http_head::Body;
use midspan::relay::codec::{Codec, HttpBody};
use midspan::relay::{CloseReason, EngineSettings, GateHold, LegIo, Side};
use midspan::runtime::clock;

use super::super::{for_each_seed, is_full_run};
use super::PATIENCE;
use super::relay::Relay;
use super::transport::connection;

/// What a request is answered in the end.
const DONE: &[u8] = b"HTTP/1.1 200 OK\r\n";

pub(super) fn run() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for_each_seed("transform", |rng| {
        let mut world = World::new(rng);
        world.run();
        for label in world.labels() {
            *seen.entry(label).or_default() += 1;
        }
    });
    // The seeds reach every way to go and every end there is.
    if is_full_run() {
        for label in [
            "spliced",
            "copied",
            "of known length",
            "finished_by_left",
            "reset_by_left",
            "reset_by_right",
            "left_broke_protocol",
            "right_broke_protocol",
            "terminated",
        ] {
            assert!(seen.contains_key(label), "{label}: {seen:?}");
        }
    }
}

/// How the pair is to end, once so much of the body is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Finish,
    /// Another request stands behind the body.
    SayMore,
    /// The request's connection ends within the body.
    Cut(usize),
    /// It goes on with what is no chunk.
    Spoil(usize),
    ResetRequest(usize),
    ResetAnswer(usize),
    /// Whoever is answered goes, or says something.
    LeaveAnswer(usize),
    Interrupt(usize),
    Terminate(usize),
}

/// How a connection ended, as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

struct World {
    rng: fastrand::Rng,
    relay: Relay,
    body: Body,
    plan: Plan,
    /// What the request's peer writes in all, and how much of that is out.
    wire: Vec<u8>,
    written: usize,
    /// What the answer's peer is to get.
    expected: Vec<u8>,
    request: Option<TcpStream>,
    answer: Option<TcpStream>,
    received: Vec<u8>,
    answered: Vec<u8>,
    ends: [Option<End>; 2],
    /// The request's peer writes all that fits.
    is_bulk: bool,
    is_lazy: bool,
}

impl World {
    fn new(mut rng: fastrand::Rng) -> Self {
        let is_bulk = rng.bool();
        let largest = 1 << if is_bulk { 22 } else { rng.u32(0..=18) };
        let mut data = vec![0; rng.usize(0..=largest)];
        rng.fill(&mut data);
        let (wire, line_starts) = match rng.u32(0..4) {
            0 => (data.clone(), Vec::new()),
            _ => chunks(&mut rng, &data, is_bulk),
        };
        let body = match line_starts[..] {
            [] => Body::Length(data.len() as u64),
            _ => Body::Chunked,
        };
        let expected = match body {
            Body::Chunked => wire.clone(),
            _ => data,
        };
        let plan = plan(&mut rng, &wire, &line_starts);
        let wire = match plan {
            Plan::SayMore => [&wire[..], &b"POST / HTTP/1.1\r\n\r\n".repeat(1000)].concat(),
            Plan::Spoil(at) => [&wire[..at], b"zz\r\n", &wire[at..]].concat(),
            _ => wire,
        };
        let early = rng.usize(0..=plan.place().unwrap_or(wire.len()).min(4096));
        let [of_request, of_answer] = HttpBody::both(body);
        let (request, left) = leg(&mut rng, of_request, &wire[..early]);
        let (answer, right) = leg(&mut rng, of_answer, b"");
        let settings = EngineSettings {
            spill_bytes_max: *rng.choice(&[0, 20 << 10, 64 << 20]).expect("not empty"),
            pipe_count_max: *rng.choice(&[0, 1, 2, 768]).expect("not empty"),
            ..EngineSettings::default()
        };
        Self {
            relay: Relay::new(settings, left, right),
            body,
            plan,
            wire,
            written: early,
            expected,
            request: Some(request),
            answer: Some(answer),
            received: Vec::new(),
            answered: Vec::new(),
            ends: [None, None],
            is_bulk,
            is_lazy: rng.u32(0..3) == 0,
            rng,
        }
    }

    fn labels(&self) -> [&'static str; 3] {
        let way = match self.relay.spliced_bytes() {
            0 => "copied",
            _ => "spliced",
        };
        let of_body = match self.body {
            Body::Chunked => "chunked",
            _ => "of known length",
        };
        let outcome = self.relay.ended.as_ref().expect("an end");
        [way, of_body, outcome.reason.label()]
    }

    fn run(&mut self) {
        let begun = clock::now();
        while !(self.relay.is_over() && self.request.is_none() && self.answer.is_none()) {
            match self.rng.u32(0..8) {
                0..2 => self.write(),
                2..4 => self.read(),
                4 => self.relay.pass_tick(),
                _ => drop(self.relay.turn(self.rng.usize(1..=4))),
            }
            assert!(
                clock::now().since(begun) < PATIENCE,
                "it hangs: {:?} {:?}, {} of {} written, {} of {} received, {:?}",
                self.plan,
                self.body,
                self.written,
                self.wire.len(),
                self.received.len(),
                self.expected.len(),
                self.relay.ended
            );
        }
        self.check();
    }

    /// The request's peer goes on.
    fn write(&mut self) {
        let Some(stream) = &mut self.request else {
            return;
        };
        let limit = match self.plan {
            Plan::Cut(at) | Plan::ResetRequest(at) => at.max(self.written),
            _ => self.wire.len(),
        };
        let most = 1 << self.rng.u32(0..=20);
        let piece = &self.wire[self.written..limit];
        let piece = match self.is_bulk {
            true => piece,
            false => &piece[..piece.len().min(self.rng.usize(0..=most))],
        };
        match stream.write(piece) {
            Ok(count) => self.written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                self.ends[0] = Some(End::Reset);
                self.request = None;
                return;
            }
        }
        let is_out = self.written == limit;
        match self.plan {
            Plan::ResetRequest(_) if is_out => {
                reset(self.request.take());
                return;
            }
            Plan::Cut(_) if is_out => {
                // It may be gone already.
                let _ = stream.shutdown(Shutdown::Write);
            }
            Plan::Terminate(at) if self.written >= at => self.relay.terminate(),
            _ => {}
        }
        let mut buffer = [0; 256];
        match stream.read(&mut buffer) {
            Ok(0) => self.ends[0] = Some(End::Fin),
            Ok(count) => self.answered.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.ends[0] = Some(End::Reset),
        }
        if self.ends[0].is_some() {
            self.request = None;
        }
    }

    /// The answer's peer goes on.
    fn read(&mut self) {
        let Some(stream) = &mut self.answer else {
            return;
        };
        match self.plan {
            Plan::ResetAnswer(at) if self.received.len() >= at => {
                return reset(self.answer.take());
            }
            Plan::LeaveAnswer(at) if self.received.len() >= at => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Plan::Interrupt(at) if self.received.len() >= at => {
                // More than is dropped.
                let _ = stream.write(&[b'x'; 8 << 10]);
            }
            _ => {}
        }
        if self.is_lazy && self.rng.u32(0..16) > 0 {
            return;
        }
        let mut buffer = vec![0; self.rng.usize(1..=1 << 18)];
        match stream.read(&mut buffer) {
            Ok(0) => self.ends[1] = Some(End::Fin),
            Ok(count) => self.receive(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.ends[1] = Some(End::Reset),
        }
        if self.ends[1].is_some() {
            self.answer = None;
        } else if matches!(self.plan, Plan::Finish | Plan::SayMore)
            && self.is_whole()
            && let Some(stream) = &self.answer
        {
            // Whoever has all of it goes.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let from = self.received.len();
        self.received.extend_from_slice(bytes);
        if self.body == Body::Chunked {
            let expected = self.expected.get(from..self.received.len());
            assert!(expected == Some(bytes), "{:?} behind {from}", self.plan);
        }
    }

    /// Whether all of the body has come, with its end.
    fn is_whole(&self) -> bool {
        match self.body {
            Body::Chunked => self.received == self.expected,
            _ => self.received.ends_with(b"0\r\n\r\n") && data_of(&self.received) == self.expected,
        }
    }

    fn check(&mut self) {
        let reason = self.relay.ended.as_ref().expect("an end").reason;
        let is_whole = self.is_whole();
        let is_finished = is_whole && matches!(reason, CloseReason::Finished(_));
        let is_done = self.answered.starts_with(DONE);
        let is_as_planned = match self.plan {
            Plan::Finish => is_finished && is_done && self.ends == [Some(End::Fin), Some(End::Fin)],
            // Where some of that is unread, it turns the close into a reset.
            Plan::SayMore => is_finished && self.ends[1] == Some(End::Fin),
            Plan::Cut(_) | Plan::Spoil(_) => reason == CloseReason::Broken(Side::Left),
            Plan::ResetRequest(_) => reason == CloseReason::Reset(Side::Left),
            // All of it may have been on its way.
            Plan::ResetAnswer(_) if is_done => matches!(reason, CloseReason::Finished(_)),
            Plan::ResetAnswer(_) => reason == CloseReason::Reset(Side::Right),
            Plan::LeaveAnswer(_) if is_finished => true,
            Plan::LeaveAnswer(_) | Plan::Interrupt(_) => reason == CloseReason::Broken(Side::Right),
            Plan::Terminate(_) => reason == CloseReason::Terminated,
        };
        assert!(
            is_as_planned,
            "{:?} {:?}: {reason:?}, {is_whole}, {is_done}, {:?}",
            self.plan, self.body, self.ends
        );
        // Streams are looked at once more.
        self.relay.pass_tick();
        self.relay.assert_nothing_held();
        self.relay.assert_nothing_due();
    }
}

impl Plan {
    /// How much of the body has to be out for it; `None` when that is all.
    const fn place(self) -> Option<usize> {
        match self {
            Self::Finish | Self::SayMore => None,
            Self::Cut(at)
            | Self::Spoil(at)
            | Self::ResetRequest(at)
            | Self::ResetAnswer(at)
            | Self::LeaveAnswer(at)
            | Self::Interrupt(at)
            | Self::Terminate(at) => Some(at),
        }
    }
}

/// A plan that a body like this allows.
fn plan(rng: &mut fastrand::Rng, wire: &[u8], line_starts: &[usize]) -> Plan {
    if wire.is_empty() {
        return Plan::Finish;
    }
    let at = rng.usize(0..wire.len());
    let line = rng.choice(line_starts).copied();
    match (rng.u32(0..16), line) {
        (0 | 8..11, _) => Plan::SayMore,
        (1, _) => Plan::Cut(at),
        (2, Some(line)) => Plan::Spoil(line),
        (3, _) => Plan::ResetRequest(at),
        (4, _) => Plan::ResetAnswer(at),
        (5, _) => Plan::LeaveAnswer(at),
        (6, _) => Plan::Interrupt(at),
        (7, _) => Plan::Terminate(at),
        _ => Plan::Finish,
    }
}

/// A body in chunks, and where their lines begin.
fn chunks(rng: &mut fastrand::Rng, data: &[u8], is_bulk: bool) -> (Vec<u8>, Vec<usize>) {
    let (mut wire, mut line_starts) = (Vec::new(), Vec::new());
    let least = if is_bulk { 12 } else { 0 };
    let largest = rng.u32(least..=18);
    let mut rest = data;
    loop {
        let most = 1 << rng.u32(least..=largest);
        let bytes = rest.len().min(rng.usize(1..=most));
        let (piece, behind) = rest.split_at(bytes);
        let extension = match rng.u32(0..8) {
            0 => format!(";a=\"{}\"", "b".repeat(rng.usize(0..900))),
            _ => String::new(),
        };
        line_starts.push(wire.len());
        wire.extend_from_slice(format!("{bytes:x}{extension}\r\n").as_bytes());
        if bytes == 0 {
            break;
        }
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
        rest = behind;
    }
    for _ in 0..rng.u32(0..3) {
        wire.extend_from_slice(format!("Trailer: {}\r\n", rng.u64(..)).as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    (wire, line_starts)
}

/// What whole chunks without extensions hold.
fn data_of(mut wire: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(end) = wire.iter().position(|byte| *byte == b'\r') {
        let size = str::from_utf8(&wire[..end]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let chunk = &wire[end + 2..];
        // One that has not come whole.
        let Some(behind) = chunk.get(size + 2..) else {
            break;
        };
        data.extend_from_slice(&chunk[..size]);
        wire = behind;
    }
    data
}

/// A peer, and the leg that it is to the relay, of which `early` came behind the head.
fn leg(rng: &mut fastrand::Rng, body: HttpBody, early: &[u8]) -> (TcpStream, LegIo) {
    let buffer_bytes = match rng.u32(0..4) {
        0 => Some(16 << 10),
        _ => None,
    };
    let (peer, socket) = connection(buffer_bytes);
    let (codec, prefix) = Codec::begin_http(None, body, early.to_vec()).expect("a body");
    let leg = LegIo {
        socket,
        prefix,
        gate: GateHold::Open,
        codec: Some(codec),
        half: None,
    };
    (peer, leg)
}

fn reset(stream: Option<TcpStream>) {
    if let Some(stream) = stream {
        let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("an open socket");
    }
}
