//! `websocket::Receiver`: what a peer sends means the same however it is cut, in
//! both roles, and what was said can be said again.

use midspan::protocol::Progress;
use midspan::protocol::websocket::{
    CloseCode, ControlFrame, ControlPayload, FrameHeader, Item, Kind, MaskKey, Opcode, Received,
    Receiver, Role, Violation,
};

use super::prefixes;

pub(crate) fn run(data: &[u8]) {
    if let Ok(Progress::Complete { value, consumed }) = prefixes::check(data, FrameHeader::decode) {
        assert_eq!(value.encode().as_bytes(), &data[..consumed]);
    }
    for role in [Role::Server, Role::Client] {
        let whole = listen(role, data, usize::MAX);
        assert_eq!(listen(role, data, 1), whole);
        // Pieces of uneven length, other ones for every input.
        let step = 1 + usize::from(data.first().copied().unwrap_or_default()) % 31;
        assert_eq!(listen(role, data, step), whole);
        // One that is still under way may have been interrupted by a Close.
        let is_whole = |said: &Said| match said {
            Said::Message { is_whole, .. } => *is_whole,
            Said::Broken(_) => false,
            Said::Ping(_) | Said::Pong(_) | Said::Close(_) => true,
        };
        if whole.iter().all(is_whole) {
            let again = speak(role, &whole);
            assert_eq!(listen(role, &again, usize::MAX), whole);
        }
    }
}

#[derive(Debug, PartialEq)]
enum Said {
    /// The pieces of a message, which ends or is still under way.
    Message {
        kind: Kind,
        bytes: Vec<u8>,
        is_whole: bool,
    },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>),
    Broken(Violation),
}

fn listen(role: Role, data: &[u8], piece_bytes: usize) -> Vec<Said> {
    let mut receiver = Receiver::new(role);
    let mut said = Vec::new();
    let mut message: Option<(Kind, Vec<u8>)> = None;
    'pieces: for piece in data.chunks(piece_bytes) {
        let mut bytes = piece.to_vec();
        let mut start = 0;
        loop {
            let rest = &mut bytes[start..];
            let length = rest.len();
            let Received { item, consumed } = match receiver.receive(rest) {
                Ok(received) => received,
                Err(violation) => {
                    // What came of a message before depends on how it is cut.
                    message = None;
                    said.push(Said::Broken(violation));
                    break 'pieces;
                }
            };
            start += consumed;
            match item {
                None => {
                    assert_eq!(consumed, length);
                    break;
                }
                Some(Item::Data(piece)) => {
                    assert_eq!(piece.is_first, message.is_none());
                    let (_, bytes) = message.get_or_insert((piece.kind, Vec::new()));
                    bytes.extend_from_slice(piece.payload);
                    if piece.is_last {
                        let (kind, bytes) = message.take().expect("it was just there");
                        let is_whole = true;
                        if kind == Kind::Text {
                            assert!(std::str::from_utf8(&bytes).is_ok());
                        }
                        said.push(Said::Message {
                            kind,
                            bytes,
                            is_whole,
                        });
                    }
                }
                Some(Item::Ping(payload)) => said.push(Said::Ping(payload.as_bytes().into())),
                Some(Item::Pong(payload)) => said.push(Said::Pong(payload.as_bytes().into())),
                Some(Item::Close(code)) => said.push(Said::Close(code)),
            }
        }
    }
    if let Some((kind, bytes)) = message {
        let is_whole = false;
        said.push(Said::Message {
            kind,
            bytes,
            is_whole,
        });
    }
    said
}

/// Says the same in the fewest frames. A message that others interrupt comes where
/// it ended.
fn speak(role: Role, said: &[Said]) -> Vec<u8> {
    let mask = (role == Role::Server).then_some(MaskKey([0x12, 0x34, 0x56, 0x78]));
    let control = |opcode: fn(&_, _) -> ControlFrame, payload: &[u8]| {
        let payload = ControlPayload::new(payload);
        opcode(&payload, mask).as_bytes().to_vec()
    };
    let mut wire = Vec::new();
    for one in said {
        match one {
            Said::Message {
                kind,
                bytes,
                is_whole,
            } => {
                let header = FrameHeader {
                    opcode: match kind {
                        Kind::Text => Opcode::Text,
                        Kind::Binary => Opcode::Binary,
                    },
                    is_final: *is_whole,
                    mask,
                    payload_bytes: bytes.len() as u64,
                };
                let mut payload = bytes.clone();
                if let Some(key) = mask {
                    key.apply(&mut payload);
                }
                wire.extend_from_slice(header.encode().as_bytes());
                wire.extend(payload);
            }
            Said::Ping(payload) => wire.extend(control(ControlFrame::ping, payload)),
            Said::Pong(payload) => wire.extend(control(ControlFrame::pong, payload)),
            Said::Close(code) => wire.extend(ControlFrame::close(*code, mask).as_bytes()),
            Said::Broken(_) => unreachable!("nothing broken is said again"),
        }
    }
    wire
}
