//! The server's role, up to a client's request: RFC 1928 §3, RFC 1929.

use std::fmt;

use thiserror::Error;

use super::VERSION;
use super::auth::{AuthError, Credentials, verdict};
use super::greeting::{Greeting, GreetingError, Method, NONE_ACCEPTABLE};
use super::reply::{Reply, ReplyCode};
use super::request::{Request, RequestError};
use crate::protocol::Progress;

/// What a server asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodPolicy {
    /// Nothing.
    NoAuthentication,
    /// A user name and a password.
    UserPassword,
}

/// One client's way to its request, sans-IO.
///
/// Input: [`receive`](Self::receive), [`handle_verdict`](Self::handle_verdict). Output:
/// [`poll`](Self::poll) and [`take_output`](Self::take_output), which is to be sent after
/// each of them.
///
/// ```text
/// Greeting ──┬────────────────────────────────────▶ Request ──▶ Done
///            └─▶ Credentials ──▶ Verdict ── right ───┘
///                                   └────── wrong ─────────────▶ (violation)
/// ```
pub struct Server {
    policy: MethodPolicy,
    stage: Stage,
    received: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Credentials,
    Verdict,
    Request,
    Done,
}

/// What a client has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Who it is: say with [`Server::handle_verdict`] whether that is right.
    Credentials(Credentials),
    /// What it wants: answer with a [`Reply`], and BIND that is done with a second one when
    /// the peer has come, or will not (RFC 1928 §6). What came behind it is
    /// [`Server::into_rest`].
    Request(Request),
}

/// Why a client is to be closed, once it was sent the last output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// No greeting of this version.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// It offers no method that the server wants.
    #[error("none of the offered methods is acceptable")]
    NoMethod,
    /// No credentials.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The wrong ones.
    #[error("wrong user or password")]
    WrongCredentials,
    /// No request that can be served.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Server {
    /// A server that asks `policy` of its client.
    #[must_use]
    pub const fn new(policy: MethodPolicy) -> Self {
        Self {
            policy,
            stage: Stage::Greeting,
            received: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Bytes have come.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next thing that the client has said; `None` until more has come, or a verdict.
    ///
    /// # Errors
    ///
    /// Why it is to be closed.
    pub fn poll(&mut self) -> Result<Option<Asked>, Violation> {
        loop {
            match self.stage {
                Stage::Greeting => match self.decode(Greeting::decode) {
                    Ok(None) => return Ok(None),
                    Ok(Some(greeting)) => self.choose(greeting)?,
                    Err(error) => {
                        self.output.extend_from_slice(&[VERSION, NONE_ACCEPTABLE]);
                        return Err(error.into());
                    }
                },
                Stage::Credentials => match self.decode(Credentials::decode) {
                    Ok(None) => return Ok(None),
                    Ok(Some(credentials)) => {
                        self.stage = Stage::Verdict;
                        return Ok(Some(Asked::Credentials(credentials)));
                    }
                    Err(error) => {
                        self.output.extend_from_slice(&verdict(false));
                        return Err(error.into());
                    }
                },
                Stage::Request => match self.decode(Request::decode) {
                    Ok(None) => return Ok(None),
                    Ok(Some(request)) => {
                        self.stage = Stage::Done;
                        return Ok(Some(Asked::Request(request)));
                    }
                    Err(error) => {
                        Reply::failed(error.reply()).encode(&mut self.output);
                        return Err(error.into());
                    }
                },
                Stage::Verdict | Stage::Done => return Ok(None),
            }
        }
    }

    /// Whether the credentials are right.
    ///
    /// # Errors
    ///
    /// [`Violation::WrongCredentials`] when they are not: RFC 1929 §2 has the server close.
    pub fn handle_verdict(&mut self, is_right: bool) -> Result<(), Violation> {
        debug_assert_eq!(self.stage, Stage::Verdict, "nobody asked");
        self.output.extend_from_slice(&verdict(is_right));
        match is_right {
            true => {
                self.stage = Stage::Request;
                Ok(())
            }
            false => Err(Violation::WrongCredentials),
        }
    }

    /// What is to be sent now.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What came behind the request.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.received
    }

    fn choose(&mut self, greeting: Greeting) -> Result<(), Violation> {
        let (method, stage) = match self.policy {
            MethodPolicy::NoAuthentication => (Method::NoAuthentication, Stage::Request),
            MethodPolicy::UserPassword => (Method::UserPassword, Stage::Credentials),
        };
        if !greeting.offers(method) {
            self.output.extend_from_slice(&[VERSION, NONE_ACCEPTABLE]);
            return Err(Violation::NoMethod);
        }
        self.output.extend_from_slice(&[VERSION, method.code()]);
        self.stage = stage;
        Ok(())
    }

    /// Decodes the next message and takes it off what was received.
    fn decode<T, E>(
        &mut self,
        decode: impl FnOnce(&[u8]) -> Result<Progress<T>, E>,
    ) -> Result<Option<T>, E> {
        Ok(match decode(&self.received)? {
            Progress::Partial { .. } => None,
            Progress::Complete { value, consumed } => {
                self.received.drain(..consumed);
                Some(value)
            }
        })
    }
}

impl Violation {
    /// What the client's request is answered, where it has come to one.
    #[must_use]
    pub const fn reply(&self) -> Option<ReplyCode> {
        match self {
            Self::Request(error) => Some(error.reply()),
            Self::Greeting(_) | Self::NoMethod | Self::Auth(_) | Self::WrongCredentials => None,
        }
    }
}

/// How many bytes, not which: a password may be among them.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("stage", &self.stage)
            .field("received_bytes", &self.received.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AddressError, Command, FrameError};
    use super::*;

    /// What a server says and hears when `wire` comes in pieces of this size. It takes
    /// the password "right".
    fn run(
        policy: MethodPolicy,
        wire: &[u8],
        piece: usize,
    ) -> (Vec<u8>, Option<Request>, Vec<u8>, Option<Violation>) {
        let mut server = Server::new(policy);
        let (mut said, mut request) = (Vec::new(), None);
        for bytes in wire.chunks(piece) {
            server.receive(bytes);
            loop {
                let asked = server.poll();
                said.extend_from_slice(&server.take_output());
                let verdict = match asked {
                    Ok(None) => break,
                    Ok(Some(Asked::Request(asked))) => {
                        request = Some(asked);
                        continue;
                    }
                    Ok(Some(Asked::Credentials(credentials))) => {
                        server.handle_verdict(credentials.password() == b"right")
                    }
                    Err(violation) => Err(violation),
                };
                said.extend_from_slice(&server.take_output());
                if let Err(violation) = verdict {
                    return (said, request, server.into_rest(), Some(violation));
                }
            }
        }
        (said, request, server.into_rest(), None)
    }

    const CONNECT: &[u8] = b"\x05\x01\0\x03\x01a\0\x50";

    fn connect() -> Option<Request> {
        Some(Request {
            command: Command::Connect,
            destination: super::super::Destination::named("a", 80).expect("a name"),
        })
    }

    #[test]
    fn clients_come_to_their_request_however_it_is_cut() {
        use MethodPolicy::{NoAuthentication, UserPassword};
        for (policy, opening, said) in [
            (NoAuthentication, &b"\x05\x01\0"[..], &b"\x05\0"[..]),
            (NoAuthentication, b"\x05\x02\0\x01", b"\x05\0"),
            (NoAuthentication, b"\x05\x03\x02\0\0", b"\x05\0"),
            (
                UserPassword,
                b"\x05\x01\x02\x01\x01u\x05right",
                b"\x05\x02\x01\0",
            ),
            (
                UserPassword,
                b"\x05\x02\0\x02\x01\0\x05right",
                b"\x05\x02\x01\0",
            ),
        ] {
            let wire = [opening, CONNECT, b"GET /"].concat();
            for piece in 1..=wire.len() {
                let expected = (said.to_vec(), connect(), b"GET /".to_vec(), None);
                assert_eq!(run(policy, &wire, piece), expected, "pieces of {piece}");
            }
        }
    }

    #[test]
    fn others_are_told_why_and_closed() {
        use MethodPolicy::{NoAuthentication, UserPassword};
        let request = |bytes: &[u8]| [b"\x05\x01\0", bytes].concat();
        for (policy, wire, said, violation) in [
            (
                NoAuthentication,
                b"\x04\x01".to_vec(),
                &b"\x05\xff"[..],
                Violation::Greeting(GreetingError { version: 4 }),
            ),
            (
                NoAuthentication,
                b"\x05\0".to_vec(),
                b"\x05\xff",
                Violation::NoMethod,
            ),
            (
                NoAuthentication,
                b"\x05\x02\x01\x80".to_vec(),
                b"\x05\xff",
                Violation::NoMethod,
            ),
            (
                NoAuthentication,
                b"\x05\x01\x02".to_vec(),
                b"\x05\xff",
                Violation::NoMethod,
            ),
            (
                UserPassword,
                b"\x05\x01\0".to_vec(),
                b"\x05\xff",
                Violation::NoMethod,
            ),
            (
                UserPassword,
                b"\x05\x01\x02\x01\x01u\x05wrong".to_vec(),
                b"\x05\x02\x01\x01",
                Violation::WrongCredentials,
            ),
            (
                UserPassword,
                b"\x05\x01\x02\x05".to_vec(),
                b"\x05\x02\x01\x01",
                Violation::Auth(AuthError::Version { version: 5 }),
            ),
            (
                NoAuthentication,
                request(b"\x05\x09\0\x01\0\0\0\0\0\0"),
                b"\x05\0\x05\x07\0\x01\0\0\0\0\0\0",
                Violation::Request(RequestError::Command { command: 9 }),
            ),
            (
                NoAuthentication,
                request(b"\x05\x01\0\x02"),
                b"\x05\0\x05\x08\0\x01\0\0\0\0\0\0",
                Violation::Request(RequestError::Frame(FrameError::Address(
                    AddressError::Kind { kind: 2 },
                ))),
            ),
        ] {
            for piece in 1..=wire.len() {
                let (got, asked, _, why) = run(policy, &wire, piece);
                assert_eq!(
                    (&got[..], asked, why),
                    (said, None, Some(violation)),
                    "{wire:?}"
                );
            }
        }
    }

    #[test]
    fn no_password_is_shown() {
        let mut server = Server::new(MethodPolicy::UserPassword);
        server.receive(b"\x05\x01\x02\x01\x01u\x06secret");
        assert!(!format!("{server:?}").contains("secret"));
    }
}
