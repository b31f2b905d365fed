//! One peer of the pair: it writes and reads in pieces of any size, at its own pace,
//! and ends, leaves or fails as its conduct says.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use midspan::protocol::websocket::CloseCode;
use midspan::relay::codec::Closing;
use rustls::{Connection, ProtocolVersion};

use super::flow::Flow;
use super::transport::Transport;
use super::websocket::{Frame, Frames, Opcode};

/// What waits for the socket to take it, before more is said.
const OUTGOING_BYTES_MAX: usize = 64 << 10;

/// Pings without an answer at a time. A relay keeps a few answers for those who do not
/// read them, and no more.
const PINGS_MAX: usize = 8;

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conduct {
    /// It stays.
    Stays,
    /// It ends its stream behind the last byte, in the words of its protocol or with
    /// no more than a FIN.
    Finishes { has_words: bool },
    /// Having sent so much it says Close, whatever the other still has to say.
    Leaves(u64),
    /// Having sent so much it resets the connection.
    Resets(u64),
    /// Having sent so much it breaks its protocol.
    Breaks(u64),
    /// It does nothing any more.
    Stalls,
}

/// How the connection ended, as the peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

pub(super) struct Peer {
    rng: fastrand::Rng,
    transport: Transport,
    pub(super) conduct: Conduct,
    /// Larger is faster.
    write_max: usize,
    read_max: usize,
    /// It seldom reads, so that the relay has to hold what it brings.
    is_lazy: bool,
    stream: Option<TcpStream>,
    tls: Option<Connection>,
    frames: Option<Frames>,
    /// What the socket has not taken yet.
    outgoing: Vec<u8>,
    has_said_end: bool,
    /// A FIN goes out behind all that was said.
    fin_follows: bool,
    /// Messages under way, to the relay and from it.
    message: Option<Opcode>,
    heard_message: Option<Opcode>,
    /// Pings that wait for their pong.
    pings: VecDeque<Vec<u8>>,
    pub(super) pings_heard: u32,
    pub(super) heard_close: Option<u16>,
    pub(super) heard_close_notify: bool,
    /// A write was told that the connection is no more.
    is_cut_off: bool,
    pub(super) end: Option<End>,
}

impl Peer {
    pub(super) fn new(
        mut rng: fastrand::Rng,
        transport: Transport,
        stream: TcpStream,
        tls: Option<Connection>,
    ) -> Self {
        let mut pace = || 1 << rng.u32(4..=17);
        let (write_max, read_max) = (pace(), pace());
        Self {
            is_lazy: rng.u32(0..3) == 0,
            rng,
            transport,
            conduct: Conduct::Stays,
            write_max,
            read_max,
            stream: Some(stream),
            tls,
            frames: transport
                .websocket
                .map(|_| Frames::new(transport.peer_role())),
            outgoing: Vec::new(),
            has_said_end: false,
            fin_follows: false,
            message: None,
            heard_message: None,
            pings: VecDeque::new(),
            pings_heard: 0,
            heard_close: None,
            heard_close_notify: false,
            is_cut_off: false,
            end: None,
        }
    }

    /// Makes the peer quick enough to be done within a few hundred of its turns.
    pub(super) fn keep_pace(&mut self, to_relay: &Flow, from_relay: &Flow) {
        let least = |flow: &Flow| usize::try_from(flow.total >> 8).expect("a short stream");
        self.write_max = self.write_max.max(least(to_relay));
        self.read_max = self.read_max.max(least(from_relay));
    }

    /// Says a few things, and gives some of it out of band: what came before the pair
    /// began.
    pub(super) fn begin(&mut self, to_relay: &mut Flow) -> Vec<u8> {
        for _ in 0..self.rng.u32(1..4) {
            self.say_some(to_relay, 1 << 10);
        }
        let cut = self.rng.usize(0..=self.outgoing.len());
        self.outgoing.drain(..cut).collect()
    }

    /// Whether nothing of what was said is on its way to the relay, or waits for an
    /// answer.
    pub(super) fn is_quiet(&self) -> bool {
        self.outgoing.is_empty() && self.pings.is_empty()
    }

    /// Whether the connection is gone.
    pub(super) const fn is_over(&self) -> bool {
        self.stream.is_none()
    }

    /// Whether no frame was cut; a message may be, where its sender left.
    pub(super) fn has_heard_whole_frames(&self) -> bool {
        self.frames.as_ref().is_none_or(Frames::is_at_bound)
    }

    /// Does one thing.
    pub(super) fn act(&mut self, to_relay: &mut Flow, from_relay: &mut Flow) {
        if self.is_over() || self.conduct == Conduct::Stalls {
            return;
        }
        match self.rng.u32(0..8) {
            0..3 => self.talk(to_relay, from_relay),
            3..5 => self.flush(),
            5..7 if self.is_lazy => {}
            _ => self.listen(from_relay),
        }
        let is_done = self.has_said_end && self.outgoing.is_empty() && !self.fin_follows;
        if self.end == Some(End::Reset) || self.end == Some(End::Fin) && is_done {
            self.stream = None;
        }
    }

    fn talk(&mut self, to_relay: &mut Flow, from_relay: &Flow) {
        if self.has_said_end || self.outgoing.len() > OUTGOING_BYTES_MAX {
            return;
        }
        match self.conduct {
            Conduct::Leaves(at) if to_relay.sent >= at => self.say_end(),
            Conduct::Resets(at) if to_relay.sent >= at => self.reset(),
            Conduct::Breaks(at) if to_relay.sent >= at => self.break_rules(),
            _ if to_relay.sent < to_relay.limit => self.say_some(to_relay, u64::MAX),
            Conduct::Finishes { .. } if self.message.is_some() => self.end_message(to_relay),
            Conduct::Finishes { has_words } if self.may_finish(has_words, from_relay) => {
                if has_words {
                    self.say_end();
                } else {
                    self.has_said_end = true;
                    self.fin_follows = true;
                }
            }
            _ => {}
        }
    }

    /// Where it ends both streams, as a Close does or a FIN without one, a polite peer
    /// waits for the other.
    fn may_finish(&self, has_words: bool, from_relay: &Flow) -> bool {
        let ends_one = match self.transport.websocket {
            None => true,
            Some(close) => has_words && close == Closing::OneWay,
        };
        let has_heard_end = self.heard_close.is_some() || self.end.is_some();
        ends_one || has_heard_end || from_relay.is_complete()
    }

    /// Some bytes of the stream, or something about the connection itself.
    fn say_some(&mut self, to_relay: &mut Flow, bytes_max: u64) {
        if self.rng.u32(0..8) == 0 {
            self.say_aside();
        }
        let largest = 1 << self.rng.u32(0..=16);
        let bytes = to_relay.send(self.rng.u64(0..=largest).min(bytes_max));
        if self.frames.is_none() {
            return self.push(&bytes);
        }
        let opcode = match self.message {
            Some(_) => Opcode::Continuation,
            None if to_relay.may_be_text() && self.rng.bool() => Opcode::Text,
            None => Opcode::Binary,
        };
        let kind = *self.message.get_or_insert(opcode);
        to_relay.begin_message();
        let is_final = self.rng.bool();
        self.say(&Frame {
            opcode,
            is_final,
            payload: bytes,
        });
        if is_final {
            self.message = None;
            to_relay.end_message(kind);
        }
    }

    fn say_aside(&mut self) {
        if self.frames.is_some() && self.pings.len() < PINGS_MAX {
            let payload: Vec<u8> = (0..self.rng.usize(0..=125))
                .map(|_| self.rng.u8(..))
                .collect();
            self.pings.push_back(payload.clone());
            self.say(&Frame::control(Opcode::Ping, payload));
        } else if let Some(tls) = &mut self.tls
            && tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        {
            tls.refresh_traffic_keys().expect("keys");
        }
    }

    fn end_message(&mut self, to_relay: &mut Flow) {
        if let Some(kind) = self.message.take() {
            self.say(&Frame {
                opcode: Opcode::Continuation,
                is_final: true,
                payload: Vec::new(),
            });
            to_relay.end_message(kind);
        }
    }

    /// Says that nothing follows, in the words of the outermost protocol that has any.
    fn say_end(&mut self) {
        self.has_said_end = true;
        if self.frames.is_some() {
            let code = CloseCode::NORMAL.as_u16().to_be_bytes();
            return self.say(&Frame::control(Opcode::Close, code.to_vec()));
        }
        match &mut self.tls {
            Some(tls) => {
                tls.send_close_notify();
                self.fin_follows = self.rng.bool();
                self.push(&[]);
            }
            None => self.fin_follows = true,
        }
    }

    fn reset(&mut self) {
        let stream = self.stream.take().expect("a connection");
        let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("an open socket");
    }

    /// Ends within a record or a frame, or says what is neither.
    fn break_rules(&mut self) {
        self.has_said_end = true;
        let is_cut = self.rng.bool();
        match &self.frames {
            Some(_) if is_cut => self.say(&Frame::control(Opcode::Ping, b"cut".to_vec())),
            // The three reserved bits.
            Some(_) => self.push(&[0xf0, 0]),
            None if is_cut => self.push(b"cut"),
            None => self
                .outgoing
                .extend([23, 3, 3, 0, 32].into_iter().chain([0x55; 32])),
        }
        if is_cut {
            self.outgoing.pop();
            self.fin_follows = true;
        }
    }

    fn say(&mut self, frame: &Frame) {
        let mask = self.rng.u32(..).to_be_bytes();
        let frames = self.frames.as_ref().expect("a WebSocket");
        let wire = frames.encode(frame, mask);
        self.push(&wire);
    }

    /// Puts bytes, and whatever TLS has to say, behind what is to be sent.
    fn push(&mut self, bytes: &[u8]) {
        let Some(tls) = &mut self.tls else {
            return self.outgoing.extend_from_slice(bytes);
        };
        tls.set_buffer_limit(None);
        tls.writer().write_all(bytes).expect("room");
        while tls.wants_write() {
            tls.write_tls(&mut self.outgoing).expect("room");
        }
    }

    fn flush(&mut self) {
        let stream = self.stream.as_mut().expect("a connection");
        let count = self.outgoing.len().min(self.rng.usize(1..=self.write_max));
        // Behind a FIN not even a write of nothing is taken.
        let result = match count {
            0 => Ok(0),
            _ => stream.write(&self.outgoing[..count]),
        };
        match result {
            Ok(written) => drop(self.outgoing.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The kernel tells it once. What the relay said before may still be read.
            Err(_) => {
                self.is_cut_off = true;
                self.outgoing.clear();
                self.has_said_end = true;
                self.fin_follows = false;
            }
        }
        if self.outgoing.is_empty() && std::mem::take(&mut self.fin_follows) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn listen(&mut self, from_relay: &mut Flow) {
        let stream = self.stream.as_mut().expect("a connection");
        let mut buffer = vec![0; self.rng.usize(1..=self.read_max)];
        match stream.read(&mut buffer) {
            Ok(0) if self.is_cut_off => self.end = Some(End::Reset),
            Ok(0) => self.end = Some(End::Fin),
            Ok(count) => self.hear(&buffer[..count], from_relay),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.end = Some(End::Reset),
        }
    }

    fn hear(&mut self, wire: &[u8], from_relay: &mut Flow) {
        let plain = self.open(wire);
        let Some(frames) = &mut self.frames else {
            return from_relay.receive(&plain);
        };
        frames.take(&plain);
        while let Some(frame) = self.frames.as_mut().and_then(Frames::decode) {
            self.hear_frame(frame, from_relay);
        }
    }

    fn open(&mut self, mut wire: &[u8]) -> Vec<u8> {
        let Some(tls) = &mut self.tls else {
            return wire.to_vec();
        };
        let mut plain = Vec::new();
        while !wire.is_empty() {
            let read = tls.read_tls(&mut wire).expect("room");
            assert_ne!(read, 0, "bytes behind close_notify");
            match tls.process_new_packets() {
                Ok(state) => {
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    tls.reader().read_exact(&mut plain[start..]).expect("data");
                    self.heard_close_notify |= state.peer_has_closed();
                }
                Err(error) => {
                    let is_told = matches!(self.conduct, Conduct::Breaks(_));
                    assert!(is_told, "{error}");
                    break;
                }
            }
        }
        plain
    }

    fn hear_frame(&mut self, frame: Frame, from_relay: &mut Flow) {
        assert_eq!(self.heard_close, None, "a frame behind a Close: {frame:?}");
        let Frame {
            opcode,
            is_final,
            payload,
        } = frame;
        match opcode {
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                let is_first = opcode != Opcode::Continuation;
                assert_eq!(is_first, self.heard_message.is_none(), "RFC 6455 §5.4");
                let kind = *self.heard_message.get_or_insert(opcode);
                from_relay.receive(&payload);
                if is_final {
                    self.heard_message = None;
                    from_relay.handle_message_end(kind);
                }
            }
            Opcode::Ping => {
                self.pings_heard += 1;
                if !self.has_said_end {
                    self.say(&Frame::control(Opcode::Pong, payload));
                }
            }
            Opcode::Pong => assert_eq!(self.pings.pop_front(), Some(payload)),
            Opcode::Close => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                self.heard_close = code;
                assert!(code.is_some(), "a Close without its reason");
            }
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("conduct", &self.conduct)
            .field("outgoing_bytes", &self.outgoing.len())
            .field("pings_heard", &self.pings_heard)
            .field("has_said_end", &self.has_said_end)
            .field("heard_close", &self.heard_close)
            .field("heard_close_notify", &self.heard_close_notify)
            .field("is_cut_off", &self.is_cut_off)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
