//! What both sides say before there are packets: `[JPROXY]`, "Handshake" and "Login".

use thiserror::Error;

use crate::protocol::Progress;

/// With what either side begins.
pub const MAGIC: [u8; 6] = *b"jProxy";

/// The version that is spoken; its minor one is of no consequence.
pub const VERSION_MAJOR: u8 = 3;

/// A SHA-256 of the client's public key, as SubjectPublicKeyInfo, and its salt.
pub const HASH_BYTES: usize = 32;

/// What RSA of 2,048 bits makes of the session's key. The document says 16, which is that key.
pub const ENCRYPTED_KEY_BYTES: usize = 256;

const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub major: u8,
    pub minor: u8,
}

/// What a client that has logged in is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginAnswer<'a> {
    /// The session's key, for whoever has the private key.
    Accepted(&'a [u8; ENCRYPTED_KEY_BYTES]),
    /// Nobody has this hash.
    Refused,
}

/// Why bytes are no handshake, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    #[error("it does not begin with \"jProxy\"")]
    Magic,
    #[error("version {major} is not {VERSION_MAJOR}")]
    Version { major: u8 },
    /// Neither of the two that there are.
    #[error("status {status} is neither 0 nor 1")]
    Status { status: u8 },
}

impl Greeting {
    /// Ours.
    pub const OURS: Self = Self {
        major: VERSION_MAJOR,
        minor: 0,
    };

    /// Decodes what a client begins with. Another version is one all the same: it is to be
    /// answered.
    ///
    /// # Errors
    ///
    /// If it is no client of jProxy's.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, HandshakeError> {
        let rest = match behind_magic::<2>(bytes)? {
            Ok(rest) => rest,
            Err(more_bytes_min) => return Ok(Progress::Partial { more_bytes_min }),
        };
        let [major, minor] = *rest;
        Ok(Progress::Complete {
            value: Self { major, minor },
            consumed: MAGIC.len() + 2,
        })
    }

    /// Whether it can be spoken with.
    ///
    /// # Errors
    ///
    /// When its version is another one.
    pub const fn check(self) -> Result<(), HandshakeError> {
        match self.major {
            VERSION_MAJOR => Ok(()),
            major => Err(HandshakeError::Version { major }),
        }
    }

    /// Appends it.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.major, self.minor]);
    }
}

/// Decodes whether a server speaks our version.
///
/// # Errors
///
/// If it is no server of jProxy's.
pub fn decode_acceptance(bytes: &[u8]) -> Result<Progress<bool>, HandshakeError> {
    let rest = match behind_magic::<1>(bytes)? {
        Ok(rest) => rest,
        Err(more_bytes_min) => return Ok(Progress::Partial { more_bytes_min }),
    };
    let [status] = *rest;
    Ok(Progress::Complete {
        value: is_accepted(status)?,
        consumed: MAGIC.len() + 1,
    })
}

/// Appends whether a client's version is spoken.
pub fn encode_acceptance(is_accepted: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.push(if is_accepted { ACCEPTED } else { REFUSED });
}

/// Takes the hash by which a client logs in.
#[must_use]
pub fn decode_hash(bytes: &[u8]) -> Progress<[u8; HASH_BYTES]> {
    match bytes.first_chunk() {
        Some(hash) => Progress::Complete {
            value: *hash,
            consumed: HASH_BYTES,
        },
        None => Progress::Partial {
            more_bytes_min: HASH_BYTES - bytes.len(),
        },
    }
}

impl<'a> LoginAnswer<'a> {
    /// Decodes what a client that has logged in is told.
    ///
    /// # Errors
    ///
    /// If it is neither answer.
    pub fn decode(bytes: &'a [u8]) -> Result<Progress<Self>, HandshakeError> {
        let Some((status, rest)) = bytes.split_first() else {
            return Ok(Progress::Partial { more_bytes_min: 1 });
        };
        if !is_accepted(*status)? {
            return Ok(Progress::Complete {
                value: Self::Refused,
                consumed: 1,
            });
        }
        Ok(match rest.first_chunk() {
            Some(key) => Progress::Complete {
                value: Self::Accepted(key),
                consumed: 1 + ENCRYPTED_KEY_BYTES,
            },
            None => Progress::Partial {
                more_bytes_min: ENCRYPTED_KEY_BYTES - rest.len(),
            },
        })
    }

    /// Appends it.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Accepted(key) => {
                out.push(ACCEPTED);
                out.extend_from_slice(key);
            }
            Self::Refused => out.push(REFUSED),
        }
    }
}

const fn is_accepted(status: u8) -> Result<bool, HandshakeError> {
    match status {
        ACCEPTED => Ok(true),
        REFUSED => Ok(false),
        status => Err(HandshakeError::Status { status }),
    }
}

/// So many bytes behind the magic ones, or how many are missing.
fn behind_magic<const N: usize>(bytes: &[u8]) -> Result<Result<&[u8; N], usize>, HandshakeError> {
    let there = bytes.len().min(MAGIC.len());
    if bytes[..there] != MAGIC[..there] {
        return Err(HandshakeError::Magic);
    }
    let rest = bytes.get(MAGIC.len()..).and_then(<[u8]>::first_chunk);
    Ok(rest.ok_or_else(|| MAGIC.len() + N - bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes all of `bytes`, after each part of them was not enough.
    #[track_caller]
    fn whole<T: std::fmt::Debug>(
        bytes: &[u8],
        decode: impl Fn(&[u8]) -> Result<Progress<T>, HandshakeError>,
    ) -> Result<T, HandshakeError> {
        for cut in 0..bytes.len() {
            match decode(&bytes[..cut]) {
                Ok(Progress::Partial { more_bytes_min }) => {
                    assert!(more_bytes_min > 0 && cut + more_bytes_min <= bytes.len());
                }
                Err(error) => return Err(error),
                other @ Ok(_) => panic!("cut at {cut}: {other:?}"),
            }
        }
        // What follows is somebody else's.
        match decode(&[bytes, b"more"].concat())? {
            Progress::Complete { value, consumed } => {
                assert_eq!(consumed, bytes.len());
                Ok(value)
            }
            partial @ Progress::Partial { .. } => panic!("{partial:?}"),
        }
    }

    #[test]
    fn a_client_begins_and_is_answered_whatever_its_version() {
        let mut out = Vec::new();
        Greeting::OURS.encode(&mut out);
        assert_eq!(out, b"jProxy\x03\0");
        assert_eq!(whole(&out, Greeting::decode), Ok(Greeting::OURS));
        let newer = whole(b"jProxy\x04\x01", Greeting::decode).expect("a greeting");
        assert_eq!(newer.check(), Err(HandshakeError::Version { major: 4 }));
        for (is_accepted, status) in [(true, 0), (false, 1)] {
            let mut out = Vec::new();
            encode_acceptance(is_accepted, &mut out);
            assert_eq!(out, [&MAGIC[..], &[status]].concat());
            assert_eq!(whole(&out, decode_acceptance), Ok(is_accepted));
        }
    }

    #[test]
    fn a_login_is_a_hash_and_its_answer_a_key() {
        let hash = [7; HASH_BYTES];
        assert_eq!(whole(&hash, |bytes| Ok(decode_hash(bytes))), Ok(hash));
        let key = [9; ENCRYPTED_KEY_BYTES];
        let mut out = Vec::new();
        LoginAnswer::Accepted(&key).encode(&mut out);
        assert_eq!(out.len(), 257);
        assert!(matches!(
            LoginAnswer::decode(&out),
            Ok(Progress::Complete { value: LoginAnswer::Accepted(it), consumed: 257 }) if *it == key
        ));
        for cut in 0..out.len() {
            let partial = LoginAnswer::decode(&out[..cut]);
            assert!(matches!(partial, Ok(Progress::Partial { .. })), "{cut}");
        }
        let mut out = Vec::new();
        LoginAnswer::Refused.encode(&mut out);
        let refused = Progress::Complete {
            value: LoginAnswer::Refused,
            consumed: 1,
        };
        assert_eq!(LoginAnswer::decode(&out), Ok(refused));
    }

    #[test]
    fn what_is_something_else_is_known_by_its_first_wrong_byte() {
        let error = Err(HandshakeError::Magic);
        for wrong in [&b"GET / HT"[..], b"j", b"jProxz", b"JPROXY\x03\0"] {
            let expected = match wrong {
                b"j" => Ok(Progress::Partial { more_bytes_min: 7 }),
                _ => error,
            };
            assert_eq!(Greeting::decode(wrong), expected, "{wrong:?}");
        }
        let status = 2;
        let error = HandshakeError::Status { status };
        assert_eq!(decode_acceptance(b"jProxy\x02"), Err(error));
        assert_eq!(LoginAnswer::decode(&[status]), Err(error));
    }
}
