//! JET, the binary protocol: one request and one reply, each an HTTP head in a
//! JET_PACKET, at the start of a TCP or TLS connection; application bytes
//! after that. `[JET-PROTO]` 2.2.1 and 2.2.2.2; `docs/protocols/jet.md` says
//! what is decided where the specification is silent.
//!
//! ```text
//! 0        4       6        7       8              size
//! +--------+-------+--------+-------+---------------+
//! | J E T 0| size  | flags  | mask  | payload       | then application bytes
//! +--------+-------+--------+-------+---------------+
//!   bytes    u16 BE  0,       XORed   one HTTP/1.1
//!            whole   ignored  on each head
//!            packet           byte
//! ```
//!
//! A relay uses [`Request::decode`] and [`Reply::encode`], an agent
//! [`Request::encode`] and [`Reply::decode`]. A reply has to reach the peer in
//! one segment (clients read it with one `read`), so an encoder gives one
//! contiguous [`Packet`], and its caller one write.
//!
//! Over HTTP a method and a path say the same, and more: [`RestRequest`].
//!
//! Left out: who may join whom and how long anybody waits (that is the
//! association table's). `protocol` knows no association keys: ids are plain
//! [`uuid::Uuid`].

mod accept;
mod connect;
mod connectivity_test;
mod host_name;
mod message;
mod place;
mod public_url;
mod refusal;
mod reply;
mod request;
mod rest;
pub mod rest_answer;

pub use accept::{Accept, AcceptPlace};
pub use connect::Connect;
pub use connectivity_test::ConnectivityTest;
pub use host_name::{HOST_NAME_BYTES_MAX, HostName, HostNameError};
pub use message::{PACKET_BYTES_MAX, PACKET_HEADER_BYTES, Packet, PacketError, SIGNATURE};
pub use place::{Place, Verb};
pub use public_url::{PublicUrl, PublicUrlError, Transport};
pub use refusal::{RefusalReason, RequestError, RequestFault};
pub use reply::{AcceptDetails, Reply, ReplyError, Status};
pub use request::{Gate, MASK_DEFAULT, Message, Request, Version};
pub use rest::{RestError, RestRequest};

use crate::protocol::http_head::{HeadPolicy, LineEnding};

/// The most headers in a packet. Known peers send up to 5, and the first
/// servers took no more than 16.
pub const HEADERS_MAX: usize = 32;

/// No proxy reads what is inside a packet, so its lines may end in a bare LF,
/// as those of some clients do. The packet's own size is the limit.
const HEAD_POLICY: HeadPolicy = HeadPolicy {
    bytes_max: PACKET_BYTES_MAX,
    line_ending: LineEnding::CrLfOrLf,
};
