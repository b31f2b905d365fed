//! A local client: SOCKS5 or HTTP CONNECT, told apart by the first byte.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::protocol::Progress;
use crate::protocol::http_connect::{self, CONNECTED, ConnectRequest};
use crate::protocol::socks5::{
    self, Asked, Command, Credentials, MethodPolicy, Reply, ReplyCode, Request, Server,
};
use crate::runtime::reactor::Reactor;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::WrappedStream;

/// Whom the port serves.
#[derive(Clone)]
pub(in crate::agent) struct LocalPolicy {
    /// `None`: everybody who reaches it.
    user: Option<Credentials>,
}

impl LocalPolicy {
    pub(super) const fn new(user: Option<Credentials>) -> Self {
        Self { user }
    }

    fn admits(&self, shown: Option<&Credentials>) -> bool {
        let Some(user) = &self.user else {
            return true;
        };
        shown.is_some_and(|shown| {
            let is_user = verify_slices_are_equal(user.user(), shown.user()).is_ok();
            let is_password = verify_slices_are_equal(user.password(), shown.password()).is_ok();
            is_user & is_password
        })
    }
}

/// Whether anybody is asked for, not who.
impl fmt::Debug for LocalPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPolicy")
            .field("asks", &self.user.is_some())
            .finish()
    }
}

/// One local client.
pub(super) struct Local {
    stream: WrappedStream,
    spoken: Spoken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Nothing,
    Socks,
    Http,
}

impl Local {
    pub(super) const fn new(stream: Stream) -> Self {
        Self {
            stream: WrappedStream::plain(stream),
            spoken: Spoken::Nothing,
        }
    }

    /// Reads what the client wants. One that is refused has been told why.
    pub(super) async fn ask(&mut self, policy: &LocalPolicy) -> Result<Request, Refused> {
        let mut first = Vec::new();
        self.read(&mut first).await?;
        match first.first() {
            Some(&socks5::VERSION) => {
                self.spoken = Spoken::Socks;
                self.ask_socks(first, policy).await
            }
            Some(b'A'..=b'Z') => {
                self.spoken = Spoken::Http;
                self.ask_http(first, policy).await
            }
            // SOCKS4 among them, whose requests name no user that could be asked for.
            _ => Err(Refused::BadSocks),
        }
    }

    async fn ask_socks(
        &mut self,
        first: Vec<u8>,
        policy: &LocalPolicy,
    ) -> Result<Request, Refused> {
        let method = match policy.user {
            Some(_) => MethodPolicy::UserPassword,
            None => MethodPolicy::NoAuthentication,
        };
        let mut server = Server::new(method);
        server.receive(&first);
        loop {
            let mut asked = server.poll().map_err(|_| Refused::BadSocks);
            if let Ok(Some(Asked::Credentials(shown))) = &asked {
                let verdict = server.handle_verdict(policy.admits(Some(shown)));
                asked = match verdict {
                    // There may be more of it already.
                    Ok(()) => {
                        self.say(&server.take_output()).await?;
                        continue;
                    }
                    Err(_) => Err(Refused::WrongPassword),
                };
            }
            self.say(&server.take_output()).await?;
            match asked? {
                Some(Asked::Request(request)) => {
                    self.stream.put_back(server.into_rest());
                    return Ok(request);
                }
                Some(Asked::Credentials(_)) => unreachable!("answered above"),
                None => {
                    let mut more = Vec::new();
                    self.read(&mut more).await?;
                    server.receive(&more);
                }
            }
        }
    }

    async fn ask_http(
        &mut self,
        mut received: Vec<u8>,
        policy: &LocalPolicy,
    ) -> Result<Request, Refused> {
        loop {
            match ConnectRequest::decode(&received) {
                Ok(Progress::Partial { .. }) => self.read(&mut received).await?,
                Ok(Progress::Complete { value, consumed }) => {
                    if !policy.admits(value.credentials.as_ref()) {
                        let words = "this proxy asks for a user and a password\n";
                        self.say(&http_connect::refusal(407, words)).await?;
                        return Err(Refused::WrongPassword);
                    }
                    self.stream.put_back(received.split_off(consumed));
                    return Ok(Request {
                        command: Command::Connect,
                        destination: value.destination,
                    });
                }
                Err(error) => {
                    self.say(&error.answer()).await?;
                    return Err(Refused::NotHttp);
                }
            }
        }
    }

    /// Says what came of its request.
    pub(super) async fn answer(
        &mut self,
        outcome: Result<SocketAddr, ReplyCode>,
    ) -> io::Result<()> {
        let words = match (self.spoken, outcome) {
            (Spoken::Http, Ok(_)) => CONNECTED.to_vec(),
            (Spoken::Http, Err(code)) => {
                let (status, text) = http_refusal(code);
                http_connect::refusal(status, text)
            }
            (Spoken::Socks | Spoken::Nothing, outcome) => {
                let mut words = Vec::new();
                let reply = outcome.map_or_else(Reply::failed, Reply::succeeded);
                reply.encode(&mut words);
                words
            }
        };
        self.stream.send_all(&words).await
    }

    /// Ends the connection, on which all is said.
    pub(super) async fn part(self, reactor: &Reactor) {
        self.stream.part(reactor, &[]).await;
    }

    /// Where our end and the client's are, if they are on a network.
    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let ours = self.stream.local_address()?;
        self.stream.peer_address().map(|theirs| (ours, theirs))
    }

    /// The connection, with what came behind its request.
    pub(super) fn into_stream(self) -> WrappedStream {
        self.stream
    }

    async fn say(&mut self, words: &[u8]) -> Result<(), Refused> {
        let said = self.stream.send_all(words).await;
        said.map_err(|_| Refused::ReplyFailed)
    }

    async fn read(&mut self, received: &mut Vec<u8>) -> Result<(), Refused> {
        match self.stream.read_into(received).await {
            Ok(0) => Err(Refused::ClosedEarly),
            Ok(_) => Ok(()),
            Err(_) => Err(Refused::ResetEarly),
        }
    }
}

/// What an HTTP client is told in place of a reply of SOCKS5: RFC 9110 §15.
fn http_refusal(code: ReplyCode) -> (u16, &'static str) {
    match code {
        ReplyCode::NotAllowed => (403, "no rule lets you go there\n"),
        ReplyCode::TtlExpired => (504, "no answer from there in time\n"),
        ReplyCode::HostUnreachable => (502, "no such host, or no way to it\n"),
        ReplyCode::ConnectionRefused => (502, "nobody listens there\n"),
        ReplyCode::NetworkUnreachable => (502, "no way there: is the relay reachable?\n"),
        _ => (502, "the relay could not connect you\n"),
    }
}
