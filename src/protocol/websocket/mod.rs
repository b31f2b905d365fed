//! WebSocket: RFC 6455. The opening handshake, frames and their masks, and what a
//! peer says with them; for both sides.
//!
//! Left out: extensions (so no compression), HTTP/2 (RFC 8441), and the gathering
//! of messages: a relay passes on what has come of one.

mod close;
mod frame;
mod handshake;
mod mask;
mod receiver;
mod utf8;

pub use close::CloseCode;
pub use frame::{
    CONTROL_PAYLOAD_BYTES_MAX, ControlFrame, ControlPayload, EncodedHeader, FrameError,
    FrameHeader, HEADER_BYTES_MAX, Opcode,
};
pub use handshake::{AnswerError, ClientHandshake, Upgrade, UpgradeError, VERSION};
pub use mask::MaskKey;
pub use receiver::{Item, Kind, Piece, Received, Receiver, Role, Violation};
