//! PTTH over QUIC: what stands at the start of each stream, before the bytes of a connection.
//! `[PTTH-QUIC]`, "Network protocol" and "Plan"; `docs/protocols/ptth-quic.md` has the bytes, and
//! what the document leaves open.
//!
//! Each proxy has one QUIC connection to the relay. Its first stream says who it is; each later
//! one becomes a connection of the user's:
//!
//! ```text
//! client-side proxy             relay             server-side proxy
//!   hello       ───────>                <───────  hello               hello.rs
//!               <───────  answer
//!                         answer        ───────>
//!   open, inner ───────>                                              open.rs
//!                         offer, inner  ───────>
//!                                       <───────  answer, inner's     answer.rs
//!               <───────  answer, inner's
//!   bytes       <──────>  bytes         <──────>  bytes
//! ```
//!
//! Messages have two forms. *Layered* ones name who and what is meant, and all of them is there in
//! one round trip. *Legacy* ones are four bytes with a number in them; there `open` and `offer`
//! are answered by themselves, and the inner message follows on the stream, which is raw for the
//! relay by then.
//!
//! | module | what it holds |
//! |---|---|
//! | `header` | the four bytes at the start of every message, and the kinds of messages |
//! | `fields` | what bodies consist of |
//! | `fault` | why bytes are no message |
//! | `id` | names as they stand in bodies |
//! | `hello` | who joins, and by which key |
//! | `open` | `open`, `offer` and the inner message |
//! | `answer` | what each is answered |
//! | `code` | why something was refused, and with which code streams and connections end |
//! | `tip` | a reader for whoever gets the bytes in pieces |
//!
//! Left out: who may do what (`access`), how long each may take, and the bytes behind the
//! messages.

mod answer;
mod code;
mod fault;
mod fields;
mod header;
mod hello;
mod id;
mod open;
mod tip;

pub use answer::{ANSWER_BYTES_MAX, Answer, AnswerError, Form, Question};
pub use code::{CloseCode, Refusal, StreamCode};
pub use fault::{MessageError, MessageFault};
pub use header::{BODY_BYTES_MAX, HEADER_BYTES, MESSAGE_BYTES_MAX};
pub use hello::{Hello, KEY_BYTES_MAX, Role, ShownKey, ShownKeyError, Who};
pub use id::{WIRE_ID_BYTES_MAX, WireId, WireIdError};
pub use open::{Inner, LateInner, Offer, Open};
pub use tip::TipReader;

/// What both ends name in ALPN (RFC 7301): another protocol is refused in the handshake.
pub const ALPN: &[u8] = b"ptth/1";

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod refusal_tests;
