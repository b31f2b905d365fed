//! The keys of jProxy: of its users, by which a relay knows them, and of clients, by which they
//! read what the relay sends. `[JPROXY]`, "Login"; `docs/protocols/jproxy.md`, "Keys".
//!
//! ```text
//! HASH.dat      | name bytes: u16 | name: modified UTF-8 | salt: 256 bytes | SPKI, in DER |
//! a client's    | key bytes: u32  | key: PKCS #8, in DER | hash: 32 bytes  |
//! ```
//!
//! The hash is the SHA-256 of the public key and the salt, in this order, and numbers are
//! big-endian. A client never has the salt. Whoever has a user's file can play the relay to its
//! client, as nothing else proves which relay it is: it is a secret as well.
//!
//! Left out: files themselves (`config`, `cli`), and what users may (`access::Allowances`).

mod client_key;
mod pair;
mod user;
mod user_name;

pub use client_key::{ClientKey, ClientKeyError};
pub use pair::{KeyPair, PairError};
pub use user::{NameListed, TunnelUser, TunnelUsers, USER_FILE_SUFFIX, UserFileError};
pub use user_name::{NAME_CHARS_MAX, NameError};

/// By which a user logs in.
pub type UserHash = [u8; crate::protocol::jproxy::HASH_BYTES];

/// Of a salt.
const SALT_BYTES: usize = 256;

/// Of every key: a tunnel's key, encrypted, has 256 bytes on the wire.
const RSA_BITS: usize = 2048;

/// The system's cryptography fails, as it does where there is no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system does no cryptography")]
pub struct CryptoFailed;
