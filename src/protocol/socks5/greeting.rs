//! The greeting: which ways to authenticate a client offers (RFC 1928 §3).

use thiserror::Error;

use super::VERSION;
use crate::protocol::Progress;

/// A way to authenticate that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// None.
    NoAuthentication,
    /// A user name and a password: RFC 1929.
    UserPassword,
}

/// What a client offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    no_authentication: bool,
    user_password: bool,
}

/// Not a greeting of this version, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("version {version} is not {VERSION}")]
pub struct GreetingError {
    /// What came.
    pub version: u8,
}

/// The server's word that none of the offered methods will do.
pub(super) const NONE_ACCEPTABLE: u8 = 0xff;

impl Method {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::NoAuthentication => 0,
            Self::UserPassword => 2,
        }
    }

    /// The method with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        let all = [Self::NoAuthentication, Self::UserPassword];
        all.into_iter().find(|method| method.code() == code)
    }
}

impl Greeting {
    /// An offer of these.
    #[must_use]
    pub fn offering(methods: &[Method]) -> Self {
        Self {
            no_authentication: methods.contains(&Method::NoAuthentication),
            user_password: methods.contains(&Method::UserPassword),
        }
    }

    /// Whether a method is offered.
    #[must_use]
    pub const fn offers(&self, method: Method) -> bool {
        match method {
            Method::NoAuthentication => self.no_authentication,
            Method::UserPassword => self.user_password,
        }
    }

    /// Decodes the greeting at the start of `bytes`. Methods that are not known, and one
    /// twice, mean nothing.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub fn decode(bytes: &[u8]) -> Result<Progress<Self>, GreetingError> {
        let partial = |bytes_wanted: usize| Progress::Partial {
            more_bytes_min: bytes_wanted - bytes.len(),
        };
        match bytes {
            [] => Ok(partial(2)),
            [version, ..] if *version != VERSION => Err(GreetingError { version: *version }),
            [_] => Ok(partial(2)),
            [_, count, offered @ ..] => {
                let consumed = 2 + usize::from(*count);
                let Some(offered) = offered.get(..usize::from(*count)) else {
                    return Ok(partial(consumed));
                };
                let known = offered.iter().filter_map(|code| Method::from_code(*code));
                let value = Self::offering(&known.collect::<Vec<_>>());
                Ok(Progress::Complete { value, consumed })
            }
        }
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let all = [Method::NoAuthentication, Method::UserPassword];
        let offered: Vec<u8> = all
            .into_iter()
            .filter(|method| self.offers(*method))
            .map(Method::code)
            .collect();
        let count = u8::try_from(offered.len()).unwrap_or_default();
        out.extend_from_slice(&[VERSION, count]);
        out.extend_from_slice(&offered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_are_read_however_they_are_cut() {
        let all = [b"\x05\xff".to_vec(), (0..=254).collect()].concat();
        for (bytes, no_authentication, user_password) in [
            (&b"\x05\0"[..], false, false),
            (b"\x05\x01\0", true, false),
            (b"\x05\x02\0\x01", true, false),
            (b"\x05\x03\0\x01\x02", true, true),
            (b"\x05\x01\x02", false, true),
            (b"\x05\x02\x01\x80", false, false),
            (b"\x05\x03\0\0\0", true, false),
            (&all, true, true),
        ] {
            for cut in 0..bytes.len() {
                let got = Greeting::decode(&bytes[..cut]);
                assert!(matches!(got, Ok(Progress::Partial { .. })), "cut at {cut}");
            }
            let value = Greeting {
                no_authentication,
                user_password,
            };
            let consumed = bytes.len();
            let more = [bytes, b"\x05\x01\0\x01"].concat();
            let got = Greeting::decode(&more);
            assert_eq!(got, Ok(Progress::Complete { value, consumed }));
        }
    }

    #[test]
    fn another_version_is_none() {
        for version in [0, 4, b'G', b'C'] {
            assert_eq!(Greeting::decode(&[version]), Err(GreetingError { version }));
        }
    }

    #[test]
    fn what_is_offered_is_written() {
        for (methods, expected) in [
            (&[Method::NoAuthentication][..], &b"\x05\x01\0"[..]),
            (
                &[Method::UserPassword, Method::NoAuthentication],
                b"\x05\x02\0\x02",
            ),
        ] {
            let mut out = Vec::new();
            Greeting::offering(methods).encode(&mut out);
            assert_eq!(out, expected);
        }
    }
}
