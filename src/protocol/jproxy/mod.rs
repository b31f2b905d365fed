//! jProxy: many TCP, UDP and ICMP channels in one encrypted tunnel. `[JPROXY]`;
//! `docs/protocols/jproxy.md` has the bytes, and what the document leaves open.
//!
//! ```text
//! client                                 server
//!   "jProxy", 3, 0          ─────────▶                          handshake.rs
//!                           ◀─────────   "jProxy", status
//!   hash of key and salt    ─────────▶
//!                           ◀─────────   status, AES key for the client's RSA key
//!   packets                 ◀────────▶   packets                cipher.rs, packet.rs
//! ```
//!
//! The document and the programs that exist say different things in their packets: [`Dialect`]
//! has both.
//!
//! | module | what it holds |
//! |---|---|
//! | `handshake` | who speaks which version, and who logs in |
//! | `cipher` | packets as they are encrypted, many at once |
//! | `packet` | what is in them |
//! | `dialect` | byte order, opcodes and codes of either dialect |
//!
//! Left out: keys and users (`access`), who may go where, and what each channel holds.

mod cipher;
mod dialect;
mod handshake;
mod packet;

pub use cipher::{
    CipherError, DATA_BYTES_MAX, Opener, PAYLOAD_BYTES_MAX, SESSION_KEY_BYTES, Sealer, SessionKey,
};
pub use dialect::{BindStatus, ConnectStatus, Dialect, EndReason};
pub use handshake::{
    ENCRYPTED_KEY_BYTES, Greeting, HASH_BYTES, HandshakeError, LoginAnswer, MAGIC, VERSION_MAJOR,
    decode_acceptance, decode_hash, encode_acceptance,
};
pub use packet::{ChannelId, ChannelKind, FromClient, FromServer, PacketError};
