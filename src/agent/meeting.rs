//! How both proxies meet under one ticket: names, messages and times.
//!
//! JET uses an association once, and a ticket serves any number of sessions.
//! So the server-side proxy waits at a few *doors*, whose ids follow from the
//! ticket alone. Whoever comes to a door is given the number of a *session*
//! association, at which the proxy waits already, and goes there:
//!
//! ```text
//! server-side proxy            relay            client-side proxy
//!   accept session(n)  ────────> │
//!   accept door(i)     ────────> │
//!   n, 8 bytes         ────────> │ <──────── connect door(i)
//!                                │ ────────> n; leaves the door
//!   sees the door close          │ <──────── connect session(n)
//!   (next number, same door)     │ <──────── hello
//!   checks it, dials   <──────── │
//!   answer             ────────> │ ────────>
//!   bytes              <──────── │ ────────> bytes
//! ```
//!
//! The hello tells which service is wanted and proves that its sender knows
//! the ticket; it also tells the server-side proxy that somebody is there,
//! which a client that waits for a greeting would not.
//!
//! A proxy that can be reached is also asked directly, at an id of its own. There the
//! door is the session as well, on one connection:
//!
//! ```text
//! server-side proxy                              client-side proxy
//!                    <─────────────── connect direct, a nonce as candidate
//!   number, proof    ───────────────>
//!                    <─────────────── hello
//!   checks it, dials; answer ───────>
//! ```
//!
//! The proof, over number and nonce, shows that somebody answers who has the ticket, and
//! not whoever has the address now; until then nothing is said but the id, which serves
//! nowhere else.
//!
//! The ids and the proof keep out whoever does not have the ticket, even one
//! who has seen earlier sessions' packets. They do not hide the bytes, nor
//! prove to the client who serves: that is for what runs inside, such as SSH
//! or TLS.

use std::time::Duration;

use aws_lc_rs::constant_time;
use uuid::Uuid;

use super::ticket::{Secret, derive};
use crate::time::Timestamp;

/// At how many doors a server-side proxy waits: so many clients can come in one
/// round trip's time without a retry.
pub const DOORS: u64 = 4;

/// Bytes of a session's number as a door gives it out.
pub const NUMBER_BYTES: usize = 8;

/// Bytes of a welcome.
pub const WELCOME_BYTES: usize = NUMBER_BYTES + 16;

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 1 + 2 + 16;

/// The first byte of a hello; another one would mean another layout.
const HELLO_VERSION: u8 = 1;

/// How long an acceptor may wait at a relay that does not say.
const WAIT_DEFAULT_S: u32 = 300;

/// The id of the door with this index.
#[must_use]
pub fn door_id(secret: &Secret, index: u64) -> Uuid {
    derive(secret, "door", index)
}

/// The id of the session with this number.
#[must_use]
pub fn session_id(secret: &Secret, number: u64) -> Uuid {
    derive(secret, "session", number)
}

/// The id at which a server-side proxy is asked directly.
#[must_use]
pub fn direct_id(secret: &Secret) -> Uuid {
    derive(secret, "direct", 0)
}

/// What a server-side proxy says to whoever asks it directly with this `nonce`.
///
/// ```text
/// 0        8                24
/// | number | proof          |    number: big endian
/// ```
#[must_use]
pub fn encode_welcome(secret: &Secret, nonce: Uuid, number: u64) -> [u8; WELCOME_BYTES] {
    let mut welcome = [0; WELCOME_BYTES];
    welcome[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
    let proof = welcome_proof(secret, nonce, number);
    welcome[NUMBER_BYTES..].copy_from_slice(proof.as_bytes());
    welcome
}

/// The session's number in a welcome; `None` when it is not from somebody who has the
/// ticket.
#[must_use]
pub fn decode_welcome(secret: &Secret, nonce: Uuid, welcome: &[u8; WELCOME_BYTES]) -> Option<u64> {
    let (number, proof) = welcome.split_first_chunk::<NUMBER_BYTES>()?;
    let number = u64::from_be_bytes(*number);
    let expected = welcome_proof(secret, nonce, number);
    constant_time::verify_slices_are_equal(proof, expected.as_bytes())
        .ok()
        .map(|()| number)
}

fn welcome_proof(secret: &Secret, nonce: Uuid, number: u64) -> Uuid {
    derive(secret, &format!("welcome/{}", nonce.simple()), number)
}

/// What a client-side proxy says first in a session.
///
/// ```text
/// 0         1      3                19
/// | version | port | proof          |    port: big endian, 0 for the only one
/// ```
#[must_use]
pub fn encode_hello(secret: &Secret, number: u64, port: Option<u16>) -> [u8; HELLO_BYTES] {
    let mut hello = [0; HELLO_BYTES];
    hello[0] = HELLO_VERSION;
    hello[1..3].copy_from_slice(&port.unwrap_or(0).to_be_bytes());
    hello[3..].copy_from_slice(proof(secret, number, port).as_bytes());
    hello
}

/// The port that a hello asks for.
///
/// # Errors
///
/// Why the session must not be served.
pub fn decode_hello(
    secret: &Secret,
    number: u64,
    hello: &[u8; HELLO_BYTES],
) -> Result<Option<u16>, HelloError> {
    let [version, high, low, proof_sent @ ..] = hello;
    if *version != HELLO_VERSION {
        return Err(HelloError::Version { version: *version });
    }
    let port = match u16::from_be_bytes([*high, *low]) {
        0 => None,
        port => Some(port),
    };
    let expected = proof(secret, number, port);
    constant_time::verify_slices_are_equal(proof_sent, expected.as_bytes())
        .map(|()| port)
        .map_err(|_| HelloError::Proof)
}

fn proof(secret: &Secret, number: u64, port: Option<u16>) -> Uuid {
    derive(secret, &format!("hello/{}", port.unwrap_or(0)), number)
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// From a newer proxy.
    #[error("hello of version {version}; this proxy speaks version {HELLO_VERSION}")]
    Version { version: u8 },
    /// From somebody who came by the session's id without the ticket.
    #[error("hello without the ticket's proof")]
    Proof,
}

/// What a server-side proxy says to a hello, one byte; the service's bytes
/// follow [`Answer::Ready`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The service is connected.
    Ready,
    /// The ticket's port is not exposed, or it has none and several are.
    NoSuchService,
    /// The service does not answer.
    Unreachable,
    /// The proxy is at a limit or about to end.
    Busy,
}

impl Answer {
    const CODES: [(u8, Self); 4] = [
        (1, Self::Ready),
        (2, Self::NoSuchService),
        (3, Self::Unreachable),
        (4, Self::Busy),
    ];

    /// The answer's byte.
    #[must_use]
    pub fn encode(self) -> u8 {
        Self::CODES
            .iter()
            .find_map(|(code, answer)| (*answer == self).then_some(*code))
            .unwrap_or_default()
    }

    /// The answer that a byte stands for, if any.
    #[must_use]
    pub fn decode(code: u8) -> Option<Self> {
        Self::CODES
            .iter()
            .find_map(|(known, answer)| (*known == code).then_some(*answer))
    }
}

/// For how long an acceptor waits at the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    accepted_at: Timestamp,
    lasts: Duration,
}

impl Lease {
    /// For an accept whose request went out at `asked_at`; `timeout_s` is what
    /// the reply says.
    #[must_use]
    pub fn new(asked_at: Timestamp, timeout_s: Option<u32>) -> Self {
        // A relay that says 0 must not have us ask without a pause.
        let timeout_s = timeout_s.unwrap_or(WAIT_DEFAULT_S).max(1);
        Self {
            accepted_at: asked_at,
            lasts: Duration::from_secs(timeout_s.into()),
        }
    }

    /// When the relay forgets the acceptor.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.accepted_at + self.lasts
    }

    /// When to accept anew: at two thirds, less up to a tenth of the whole, so
    /// that not all doors are renewed at once. `random` is uniform.
    #[must_use]
    pub fn renew_at(&self, random: u64) -> Timestamp {
        let lasts_ns = u64::try_from(self.lasts.as_nanos()).unwrap_or(u64::MAX);
        let jitter_ns = random % (lasts_ns / 10 + 1);
        self.accepted_at + Duration::from_nanos(lasts_ns / 3 * 2 - jitter_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::from_bytes([byte; 16])
    }

    #[test]
    fn every_place_has_its_own_id() {
        let ids = |secret: &Secret| {
            let doors = (0..DOORS).map(|index| door_id(secret, index));
            let sessions = (0..DOORS).map(|number| session_id(secret, number));
            let direct = [direct_id(secret)];
            doors.chain(sessions).chain(direct).collect::<Vec<_>>()
        };
        let mut all = [ids(&secret(1)), ids(&secret(2))].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 * (4 + 4 + 1));
    }

    #[test]
    fn welcomes_prove_the_ticket_to_one_who_asks() {
        let nonce = Uuid::from_u128(5);
        let welcome = encode_welcome(&secret(1), nonce, 7);
        assert_eq!(decode_welcome(&secret(1), nonce, &welcome), Some(7));
        assert_eq!(decode_welcome(&secret(2), nonce, &welcome), None);
        let another = Uuid::from_u128(6);
        assert_eq!(decode_welcome(&secret(1), another, &welcome), None);
        for index in 0..WELCOME_BYTES {
            let mut changed = welcome;
            changed[index] ^= 1;
            assert_eq!(decode_welcome(&secret(1), nonce, &changed), None);
        }
    }

    #[test]
    fn hellos_say_the_port_and_prove_the_ticket() {
        for port in [None, Some(1), Some(22), Some(65535)] {
            let hello = encode_hello(&secret(1), 7, port);
            assert_eq!(decode_hello(&secret(1), 7, &hello), Ok(port));
            for (secret, number) in [(secret(2), 7), (secret(1), 8)] {
                let refused = decode_hello(&secret, number, &hello);
                assert_eq!(refused, Err(HelloError::Proof));
            }
            for index in 0..HELLO_BYTES {
                let mut changed = hello;
                changed[index] ^= 1;
                let refused = decode_hello(&secret(1), 7, &changed);
                let expected = match index {
                    0 => HelloError::Version { version: 0 },
                    _ => HelloError::Proof,
                };
                assert_eq!(refused, Err(expected), "byte {index}");
            }
        }
    }

    #[test]
    fn answers_round_trip() {
        for code in 0..=255 {
            match Answer::decode(code) {
                Some(answer) => assert_eq!(answer.encode(), code),
                None => assert!(!(1..=4).contains(&code)),
            }
        }
    }

    #[test]
    fn leases_are_renewed_before_they_end() {
        let at = |s: u64| Timestamp::from_nanos(s * 1_000_000_000);
        let check = |timeout_s, random, renew_s: u64, expire_s: u64| {
            let lease = Lease::new(at(1000), timeout_s);
            assert_eq!(lease.renew_at(random), at(1000 + renew_s));
            assert_eq!(lease.expires_at(), at(1000 + expire_s));
        };
        check(None, 0, 200, 300);
        check(None, 30_000_000_000, 170, 300);
        check(None, 30_000_000_001, 200, 300);
        check(Some(60), 0, 40, 60);
        let none = Lease::new(at(0), Some(0));
        assert!(none.renew_at(u64::MAX) > at(0) + Duration::from_millis(500));
    }
}
