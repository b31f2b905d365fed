//! WebSocket as a peer has it, written anew and the simplest way: relay and peer would
//! agree on a fault that they share.

use midspan::protocol::websocket::Role;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) is_final: bool,
    pub(super) payload: Vec<u8>,
}

/// One peer's frames, both ways.
#[derive(Debug)]
pub(super) struct Frames {
    /// The peer's own.
    role: Role,
    /// What came of a frame that is cut.
    begun: Vec<u8>,
}

impl Frame {
    pub(super) const fn control(opcode: Opcode, payload: Vec<u8>) -> Self {
        Self {
            opcode,
            is_final: true,
            payload,
        }
    }
}

impl Frames {
    pub(super) const fn new(role: Role) -> Self {
        Self {
            role,
            begun: Vec::new(),
        }
    }

    /// RFC 6455 §5.2.
    pub(super) fn encode(&self, frame: &Frame, mask: [u8; 4]) -> Vec<u8> {
        let mut wire = vec![u8::from(frame.is_final) << 7 | frame.opcode as u8];
        let is_masked = self.role == Role::Client;
        let mask_bit = u8::from(is_masked) << 7;
        match (
            u8::try_from(frame.payload.len()),
            u16::try_from(frame.payload.len()),
        ) {
            (Ok(length @ ..126), _) => wire.push(mask_bit | length),
            (_, Ok(length)) => {
                wire.push(mask_bit | 126);
                wire.extend(length.to_be_bytes());
            }
            _ => {
                wire.push(mask_bit | 127);
                wire.extend((frame.payload.len() as u64).to_be_bytes());
            }
        }
        let payload = frame.payload.iter().copied();
        if is_masked {
            wire.extend(mask);
            wire.extend(masked(payload, mask));
        } else {
            wire.extend(payload);
        }
        wire
    }

    pub(super) fn take(&mut self, wire: &[u8]) {
        self.begun.extend_from_slice(wire);
    }

    /// The next frame that came whole.
    pub(super) fn decode(&mut self) -> Option<Frame> {
        let (&[first, second], rest) = self.begun.split_first_chunk()?;
        let (length, rest) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*length), rest)
            }
            length => (u64::from(length), rest),
        };
        let is_masked = second & 0x80 != 0;
        assert_eq!(is_masked, self.role == Role::Server, "RFC 6455 §5.1");
        let (mask, rest) = match is_masked {
            true => rest.split_first_chunk().map(|(mask, rest)| (*mask, rest))?,
            false => ([0; 4], rest),
        };
        let payload = rest.get(..usize::try_from(length).expect("a sane length"))?;
        let frame = Frame {
            opcode: opcode(first),
            is_final: first & 0x80 != 0,
            payload: masked(payload.iter().copied(), mask).collect(),
        };
        let consumed = self.begun.len() - rest.len() + payload.len();
        self.begun.drain(..consumed);
        Some(frame)
    }

    /// Whether nothing of a frame came that did not end.
    pub(super) const fn is_at_bound(&self) -> bool {
        self.begun.is_empty()
    }
}

fn opcode(first: u8) -> Opcode {
    assert_eq!(first & 0x70, 0, "reserved bits");
    match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        other => panic!("opcode {other}"),
    }
}

fn masked(payload: impl Iterator<Item = u8>, mask: [u8; 4]) -> impl Iterator<Item = u8> {
    payload
        .zip(mask.into_iter().cycle())
        .map(|(byte, key)| byte ^ key)
}
