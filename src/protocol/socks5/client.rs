//! The client's role, up to its last reply: RFC 1928 §3, RFC 1929.

use std::fmt;

use thiserror::Error;

use super::VERSION;
use super::auth::{AUTH_VERSION, Credentials};
use super::frame::FrameError;
use super::greeting::{Greeting, Method};
use super::reply::{Reply, ReplyCode};
use super::request::{Command, Request};
use crate::protocol::Progress;

/// How a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Greeting and request at once, since the server is known to take no credentials: a
    /// round trip less.
    AtOnce,
    /// One after the other.
    StepByStep,
}

/// One client's way to its reply, or replies, sans-IO.
///
/// Input: [`receive`](Self::receive). Output: its result, and
/// [`take_output`](Self::take_output), which is to be sent at the start and after each
/// input.
///
/// ```text
/// Method ──┬──────────────▶ Reply ──┬──────────────────────────────▶ Done
///          └─▶ Verdict ───────┘     └─ BIND succeeds ─▶ PeerReply ─────┘
/// ```
pub struct Client {
    stage: Stage,
    command: Command,
    credentials: Option<Credentials>,
    /// Encoded, until it is sent.
    request: Vec<u8>,
    received: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Method,
    Verdict,
    Reply,
    /// That somebody has connected: RFC 1928 §6 has a second reply to BIND.
    PeerReply,
    Done,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The server speaks something else.
    #[error("version {version} is not {VERSION}")]
    Version {
        /// What came.
        version: u8,
    },
    /// It wants what was not offered.
    #[error("the server wants authentication method {method}")]
    Method {
        /// Its number; 255 for none.
        method: u8,
    },
    /// It does not know the user, or not with this password.
    #[error("the server refuses user and password")]
    WrongCredentials,
    /// No reply.
    #[error(transparent)]
    Reply(#[from] FrameError),
}

impl Client {
    /// A client with this request, which shows `credentials` to a server that wants some.
    #[must_use]
    pub fn new(request: &Request, credentials: Option<Credentials>, pace: Pace) -> Self {
        let mut client = Self {
            stage: Stage::Method,
            command: request.command,
            request: Vec::new(),
            received: Vec::new(),
            output: Vec::new(),
            credentials,
        };
        let offered: &[Method] = match client.credentials {
            Some(_) => &[Method::NoAuthentication, Method::UserPassword],
            None => &[Method::NoAuthentication],
        };
        Greeting::offering(offered).encode(&mut client.output);
        match pace {
            Pace::AtOnce => request.encode(&mut client.output),
            Pace::StepByStep => request.encode(&mut client.request),
        }
        client
    }

    /// Bytes have come, or none: gives a reply once it is there. BIND has a second one behind
    /// one that says that it is done. What came behind the last is [`Self::into_rest`].
    ///
    /// # Errors
    ///
    /// Why there will be none.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Reply>, ClientError> {
        self.received.extend_from_slice(bytes);
        loop {
            match (self.stage, &self.received[..]) {
                (Stage::Method | Stage::Verdict, []) => return Ok(None),
                (Stage::Method, [version, ..]) if *version != VERSION => {
                    return Err(ClientError::Version { version: *version });
                }
                (Stage::Verdict, [version, ..]) if *version != AUTH_VERSION => {
                    return Err(ClientError::Version { version: *version });
                }
                (Stage::Method | Stage::Verdict, [_]) => return Ok(None),
                (Stage::Method, [_, method, ..]) => {
                    let method = *method;
                    self.take(2);
                    self.answer(method)?;
                }
                (Stage::Verdict, [_, verdict, ..]) => {
                    if *verdict != 0 {
                        return Err(ClientError::WrongCredentials);
                    }
                    self.take(2);
                    self.ask();
                }
                (stage @ (Stage::Reply | Stage::PeerReply), received) => {
                    let Progress::Complete { value, consumed } = Reply::decode(received)? else {
                        return Ok(None);
                    };
                    self.take(consumed);
                    self.stage = match (stage, self.command, value.code) {
                        (Stage::Reply, Command::Bind, ReplyCode::Succeeded) => Stage::PeerReply,
                        _ => Stage::Done,
                    };
                    return Ok(Some(value));
                }
                (Stage::Done, _) => return Ok(None),
            }
        }
    }

    /// What is to be sent now.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What came behind the last reply.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.received
    }

    fn answer(&mut self, method: u8) -> Result<(), ClientError> {
        match (Method::from_code(method), &self.credentials) {
            (Some(Method::NoAuthentication), _) => self.ask(),
            (Some(Method::UserPassword), Some(credentials)) => {
                credentials.encode(&mut self.output);
                self.stage = Stage::Verdict;
            }
            (Some(Method::UserPassword) | None, _) => {
                return Err(ClientError::Method { method });
            }
        }
        Ok(())
    }

    fn ask(&mut self) {
        self.output.append(&mut self.request);
        self.stage = Stage::Reply;
    }

    fn take(&mut self, count: usize) {
        self.received.drain(..count);
    }
}

/// How many bytes, not which.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("stage", &self.stage)
            .field("received_bytes", &self.received.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{Asked, Destination, MethodPolicy, Server};
    use super::*;

    fn request() -> Request {
        Request {
            command: Command::Connect,
            destination: Destination::named("localhost", 29_000).expect("a name"),
        }
    }

    fn credentials(password: &str) -> Option<Credentials> {
        Credentials::new("alice", password)
    }

    #[test]
    fn what_is_said_at_once_is_one_packet() {
        let mut client = Client::new(&request(), None, Pace::AtOnce);
        let said = client.take_output();
        assert_eq!(said, b"\x05\x01\0\x05\x01\0\x03\x09localhost\x71\x48");
        assert_eq!(client.receive(b"\x05\0"), Ok(None));
        assert!(client.take_output().is_empty());
        let reply = client
            .receive(b"\x05\0\0\x01\0\0\0\0\x71\x48SSH-")
            .expect("a reply");
        assert_eq!(reply.expect("complete").code, ReplyCode::Succeeded);
        assert_eq!(client.into_rest(), b"SSH-");
    }

    #[test]
    fn both_roles_understand_each_other_however_the_bytes_are_cut() {
        use MethodPolicy::{NoAuthentication, UserPassword};
        for (policy, credentials, pace) in [
            (NoAuthentication, None, Pace::AtOnce),
            (NoAuthentication, None, Pace::StepByStep),
            (NoAuthentication, credentials("right"), Pace::StepByStep),
            (UserPassword, credentials("right"), Pace::StepByStep),
        ] {
            for piece in 1..64 {
                let mut client = Client::new(&request(), credentials.clone(), pace);
                let mut server = Server::new(policy);
                let (mut answer, mut reply) = (None, None);
                while reply.is_none() {
                    for bytes in client.take_output().chunks(piece) {
                        server.receive(bytes);
                        while let Some(asked) = server.poll().expect("no violation") {
                            match asked {
                                Asked::Credentials(shown) => {
                                    assert_eq!(Some(shown), credentials);
                                    server.handle_verdict(true).expect("right");
                                }
                                Asked::Request(asked) => {
                                    assert_eq!(asked, request());
                                    answer = Some(Reply::failed(ReplyCode::HostUnreachable));
                                }
                            }
                        }
                    }
                    let mut said = server.take_output();
                    if let Some(answer) = answer.take() {
                        Reply::encode(&answer, &mut said);
                    }
                    for bytes in said.chunks(piece) {
                        let got = client.receive(bytes).expect("an answer");
                        reply = reply.or(got);
                    }
                }
                assert_eq!(
                    reply.map(|reply| reply.code),
                    Some(ReplyCode::HostUnreachable)
                );
            }
        }
    }

    /// What a client is told when the replies to its request come in pieces of this size,
    /// and what is left behind them.
    fn told(command: Command, replies: &[Reply], piece: usize) -> (Vec<Reply>, Vec<u8>) {
        let request = Request {
            command,
            destination: SocketAddr::from(([192, 0, 2, 7], 20)).into(),
        };
        let mut client = Client::new(&request, None, Pace::AtOnce);
        let mut server = Server::new(MethodPolicy::NoAuthentication);
        server.receive(&client.take_output());
        assert_eq!(server.poll(), Ok(Some(Asked::Request(request))));
        let mut said = server.take_output();
        for reply in replies {
            reply.encode(&mut said);
        }
        said.extend_from_slice(b"220 ready");
        let mut told = Vec::new();
        for bytes in said.chunks(piece) {
            let mut fresh = bytes;
            while let Some(reply) = client.receive(fresh).expect("replies") {
                told.push(reply);
                fresh = b"";
            }
        }
        assert!(client.take_output().is_empty());
        (told, client.into_rest())
    }

    #[test]
    fn bind_has_two_replies_however_they_are_cut() {
        let listening = Reply::succeeded(SocketAddr::from(([203, 0, 113, 7], 40_000)));
        let peer = Reply::succeeded(SocketAddr::from(([192, 0, 2, 7], 20)));
        let late = Reply::failed(ReplyCode::TtlExpired);
        let refused = Reply::failed(ReplyCode::CommandNotSupported);
        for (command, replies) in [
            (Command::Bind, vec![listening.clone(), peer]),
            (Command::Bind, vec![listening.clone(), late]),
            // None comes behind one that says that nobody listens, and none of others.
            (Command::Bind, vec![refused]),
            (Command::Connect, vec![listening.clone()]),
            (Command::UdpAssociate, vec![listening]),
        ] {
            for piece in 1..40 {
                let expected = (replies.clone(), b"220 ready".to_vec());
                assert_eq!(told(command, &replies, piece), expected, "in {piece}");
            }
        }
    }

    #[test]
    fn servers_that_will_not_serve_are_told_apart() {
        let check = |credentials: Option<Credentials>, said: &[u8], expected: ClientError| {
            let mut client = Client::new(&request(), credentials, Pace::StepByStep);
            assert_eq!(client.receive(said), Err(expected));
        };
        check(None, b"H", ClientError::Version { version: b'H' });
        check(None, b"\x05\xff", ClientError::Method { method: 255 });
        check(None, b"\x05\x02", ClientError::Method { method: 2 });
        check(
            credentials("x"),
            b"\x05\x02\x05",
            ClientError::Version { version: 5 },
        );
        check(
            credentials("x"),
            b"\x05\x02\x01\x01",
            ClientError::WrongCredentials,
        );
        check(
            None,
            b"\x05\0\x04",
            ClientError::Reply(FrameError::Version { version: 4 }),
        );
    }
}
