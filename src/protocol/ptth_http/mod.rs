//! PTTH port forwarding over HTTP: what the requests ask for, and how they are answered.
//! `[PTTH-HTTP]`; `docs/protocols/ptth-http.md` says what the document leaves open.
//!
//! One TCP connection is four requests, two of either side. Nothing streams both ways:
//!
//! ```text
//!   client   upstream ─────> accept     server
//!            connect  <───── downstream
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `call` | a request, by its method and path |
//! | `connection_id` | what the relay calls one connection |
//! | `answer` | the heads of what is answered |
//! | `ask` | the proxies' side of both |
//! | `switchboard` | who waits for whom at the relay |
//! | `tally` | how many did, and what became of them |
//!
//! Left out: whose key is good for what (`access`), and the bodies, which pass as they come
//! (`http_head::BodyReader`).

mod answer;
mod ask;
mod call;
mod connection_id;
mod switchboard;
mod tally;

pub use answer::{accepted, connected, offered, other_server};
pub use ask::{AnswerError, Answered};
pub use call::{Call, CallError, presented_key};
pub use connection_id::{ConnectionId, ConnectionIdError};
pub use switchboard::{Late, Place, Refusal, Switchboard, SwitchboardLimits, Whole, place_key};
pub use tally::{TunnelCensus, TunnelTally};

pub use super::ptth_name::{Name, NameError};
