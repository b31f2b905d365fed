//! A user name and a password: RFC 1929.

use std::fmt;

use thiserror::Error;

use crate::protocol::Progress;

/// The version of this exchange, which is not that of SOCKS.
pub const AUTH_VERSION: u8 = 1;

/// Who a client says that it is. Shown by no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

/// Why bytes are no credentials, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// Another version of the exchange.
    #[error("version {version} of the password exchange is not {AUTH_VERSION}")]
    Version {
        /// What came.
        version: u8,
    },
}

impl Credentials {
    /// These; `None` when one of them is longer than 255 bytes.
    #[must_use]
    pub fn new(user: impl Into<Vec<u8>>, password: impl Into<Vec<u8>>) -> Option<Self> {
        let (user, password) = (user.into(), password.into());
        let fits = |bytes: &[u8]| u8::try_from(bytes.len()).is_ok();
        (fits(&user) && fits(&password)).then_some(Self { user, password })
    }

    /// The user's name, as bytes of any kind.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.user
    }

    /// The password, as bytes of any kind.
    #[must_use]
    pub fn password(&self) -> &[u8] {
        &self.password
    }

    /// Decodes the message at the start of `bytes`. Empty names and passwords are none of
    /// RFC 1929's, and known to be sent.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, AuthError> {
        let partial = |bytes_wanted: usize| Progress::Partial {
            more_bytes_min: bytes_wanted - bytes.len(),
        };
        if let Some(version) = bytes.first()
            && *version != AUTH_VERSION
        {
            return Err(AuthError::Version { version: *version });
        }
        let field = |start: usize| {
            let length = usize::from(*bytes.get(start)?);
            let end = start + 1 + length;
            Some((end, bytes.get(start + 1..end)))
        };
        let Some((user_end, user)) = field(1) else {
            return Ok(partial(3));
        };
        let Some((consumed, password)) = field(user_end) else {
            return Ok(partial(user_end + 1));
        };
        let (Some(user), Some(password)) = (user, password) else {
            return Ok(partial(consumed));
        };
        let value = Self {
            user: user.to_vec(),
            password: password.to_vec(),
        };
        Ok(Progress::Complete { value, consumed })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(AUTH_VERSION);
        for field in [&self.user, &self.password] {
            out.push(u8::try_from(field.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(field);
        }
    }
}

/// The server's verdict: RFC 1929 §2.
pub(super) const fn verdict(is_right: bool) -> [u8; 2] {
    [AUTH_VERSION, if is_right { 0 } else { 1 }]
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_round_trip_however_they_are_cut() {
        let long = [7_u8; 255];
        for (user, password) in [
            (&b"alice"[..], &b"pasSw0rD"[..]),
            (b"", b""),
            (b"u", b""),
            (b"", b"p"),
            (b"\xff\xfe", b"\0"),
            (&long, &long),
        ] {
            let credentials = Credentials::new(user, password).expect("short enough");
            let mut bytes = Vec::new();
            credentials.encode(&mut bytes);
            for cut in 0..bytes.len() {
                match Credentials::decode(&bytes[..cut]) {
                    Ok(Progress::Partial { more_bytes_min }) => {
                        assert!(more_bytes_min > 0 && cut + more_bytes_min <= bytes.len());
                    }
                    other => panic!("cut at {cut}: {other:?}"),
                }
            }
            let more = [&bytes[..], b"\x05\x01"].concat();
            let Ok(Progress::Complete { value, consumed }) = Credentials::decode(&more) else {
                panic!("{user:?}");
            };
            assert_eq!((value.user(), value.password()), (user, password));
            assert_eq!(consumed, bytes.len());
        }
        assert_eq!(Credentials::new(vec![0; 256], ""), None);
    }

    #[test]
    fn other_versions_are_refused_and_nothing_is_shown() {
        for version in [0, 5] {
            assert_eq!(
                Credentials::decode(&[version, 1]),
                Err(AuthError::Version { version })
            );
        }
        let shown = format!("{:?}", Credentials::new("alice", "secret"));
        assert!(!shown.contains("alice") && !shown.contains("secret"));
    }
}
