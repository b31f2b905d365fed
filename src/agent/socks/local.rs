//! A local client: SOCKS5 or HTTP, told apart by the first byte.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::pass::Passed;
use super::refusal::Refusal;
use crate::access::Guesses;
use crate::access::routing::{PAC_CONTENT_TYPE, ProxyAccess, ProxyAddress, RoutingRules};
use crate::config::limits::Limits;
use crate::protocol::Progress;
use crate::protocol::http_head::{Answer, Persistence};
use crate::protocol::http_proxy::{self, CONNECTED, ProxyAsked, ProxyError, ProxyRequest};
use crate::protocol::socks5::{
    self, Asked, Command, Credentials, MethodPolicy, Reply, Request, Server,
};
use crate::runtime::reactor::Reactor;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::session::wrapped_stream::{Departure, WrappedStream};
use crate::time::Timestamp;

/// Where browsers find by which proxy to go.
const PAC_PATH: &str = "/proxy.pac";

/// Whom the port serves.
#[derive(Clone)]
pub(in crate::agent) struct LocalPolicy {
    /// `None`: everybody who reaches it.
    user: Option<Credentials>,
    /// As in the limits; 0 is none.
    wrong_passwords_per_minute_max: u32,
}

/// Lets one shard's clients in, or not.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    policy: RefCell<LocalPolicy>,
    guesses: RefCell<Guesses>,
}

impl LocalPolicy {
    pub(super) fn new(user: Option<Credentials>, limits: &Limits) -> Self {
        let wrong_max = limits.wrong_passwords_per_minute_max;
        Self {
            user,
            wrong_passwords_per_minute_max: u32::try_from(wrong_max).unwrap_or(u32::MAX),
        }
    }
}

impl Doorkeeper {
    pub(super) fn new(policy: LocalPolicy) -> Self {
        Self {
            policy: RefCell::new(policy),
            guesses: RefCell::default(),
        }
    }

    /// Lets others in from now on.
    pub(super) fn renew(&self, policy: LocalPolicy) {
        self.policy.replace(policy);
    }

    fn asks(&self) -> bool {
        self.policy.borrow().user.is_some()
    }

    /// Whether a client from there is let in. Whoever guesses is not listened to for a while.
    fn check(
        &self,
        shown: Option<&Credentials>,
        from: Option<SocketAddr>,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let policy = self.policy.borrow();
        let Some(user) = &policy.user else {
            return Ok(());
        };
        let shown = shown.ok_or(Refused::NoPassword)?;
        let wrong_max = policy.wrong_passwords_per_minute_max;
        let source = from.map(|from| from.ip()).filter(|_| wrong_max > 0);
        let mut guesses = self.guesses.borrow_mut();
        if source.is_some_and(|ip| !guesses.is_calm(ip, wrong_max, now)) {
            return Err(Refused::TooManyWrong);
        }
        let is_user = verify_slices_are_equal(user.user(), shown.user()).is_ok();
        let is_password = verify_slices_are_equal(user.password(), shown.password()).is_ok();
        if is_user & is_password {
            return Ok(());
        }
        if let Some(ip) = source {
            guesses.add(ip, wrong_max, now);
        }
        Err(Refused::WrongPassword)
    }
}

/// Whether anybody is asked for, not who.
impl fmt::Debug for LocalPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPolicy")
            .field("asks", &self.user.is_some())
            .finish_non_exhaustive()
    }
}

/// One local client.
pub(super) struct Local {
    stream: WrappedStream,
    spoken: Spoken,
}

#[derive(Debug)]
enum Spoken {
    Nothing,
    Socks,
    /// To be connected.
    Connect,
    /// Nothing is: all who come want to go to one place.
    Forwarded,
    /// To have a request passed on, whose answer says all that there is to say.
    Pass(Passed),
}

impl Local {
    pub(super) const fn new(stream: Stream) -> Self {
        Self {
            stream: WrappedStream::plain(stream),
            spoken: Spoken::Nothing,
        }
    }

    /// One that comes to a port which leads to one place.
    pub(super) const fn forwarded(stream: Stream) -> Self {
        Self {
            stream: WrappedStream::plain(stream),
            spoken: Spoken::Forwarded,
        }
    }

    /// Reads what the client wants. One that is refused has been told why.
    ///
    /// One that asked for something of the port's own has been answered: `None`.
    pub(super) async fn ask(
        &mut self,
        door: &Doorkeeper,
        rules: &RoutingRules,
        now: Timestamp,
    ) -> Result<Option<Request>, Refused> {
        let mut first = Vec::new();
        self.read(&mut first).await?;
        match first.first() {
            Some(&socks5::VERSION) => {
                self.spoken = Spoken::Socks;
                self.ask_socks(first, door, now).await.map(Some)
            }
            Some(b'A'..=b'Z') => {
                self.spoken = Spoken::Connect;
                self.ask_http(first, door, rules, now).await
            }
            // SOCKS4 among them, whose requests name no user that could be asked for.
            _ => Err(Refused::BadSocks),
        }
    }

    async fn ask_socks(
        &mut self,
        first: Vec<u8>,
        door: &Doorkeeper,
        now: Timestamp,
    ) -> Result<Request, Refused> {
        let method = match door.asks() {
            true => MethodPolicy::UserPassword,
            false => MethodPolicy::NoAuthentication,
        };
        let mut server = Server::new(method);
        server.receive(&first);
        loop {
            let mut asked = server.poll().map_err(|_| Refused::BadSocks);
            if let Ok(Some(Asked::Credentials(shown))) = &asked {
                let checked = door.check(Some(shown), self.stream.peer_address(), now);
                let verdict = server.handle_verdict(checked.is_ok());
                asked = match verdict {
                    // There may be more of it already.
                    Ok(()) => {
                        self.say(&server.take_output()).await?;
                        continue;
                    }
                    Err(_) => Err(checked.err().unwrap_or(Refused::BadSocks)),
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
        door: &Doorkeeper,
        rules: &RoutingRules,
        now: Timestamp,
    ) -> Result<Option<Request>, Refused> {
        let (request, consumed) = loop {
            match ProxyRequest::decode(&received) {
                Ok(Progress::Partial { .. }) => self.read(&mut received).await?,
                Ok(Progress::Complete { value, consumed }) => break (value, consumed),
                Err(error) => {
                    self.say(&error.answer()).await?;
                    return Err(match error {
                        ProxyError::Framing(_) => Refused::AmbiguousBody,
                        _ => Refused::NotHttp,
                    });
                }
            }
        };
        let ProxyRequest { asked, credentials } = request;
        let is_own = matches!(asked, ProxyAsked::Own { .. });
        // A browser asks for the script before it knows of any proxy.
        let from = self.stream.peer_address();
        if !is_own && let Err(refused) = door.check(credentials.as_ref(), from, now) {
            let (status, words) = match refused {
                Refused::TooManyWrong => (429, "too many wrong passwords; wait a minute\n"),
                _ => (407, "this proxy asks for a user and a password\n"),
            };
            self.say(&http_proxy::refusal(status, words)).await?;
            return Err(refused);
        }
        let rest = received.split_off(consumed);
        let destination = match asked {
            ProxyAsked::Connect(destination) => destination,
            ProxyAsked::Pass {
                destination,
                head,
                exchange,
            } => {
                self.spoken = Spoken::Pass(Passed { head, exchange });
                destination
            }
            ProxyAsked::Own { path, host } => {
                let access = match door.asks() {
                    true => ProxyAccess::Password,
                    false => ProxyAccess::Open,
                };
                return self.answer_own(&path, host.as_deref(), access, rules).await;
            }
        };
        self.stream.put_back(rest);
        Ok(Some(Request {
            command: Command::Connect,
            destination,
        }))
    }

    /// Gives out what browsers need, and nothing else.
    async fn answer_own(
        &mut self,
        path: &str,
        host: Option<&str>,
        access: ProxyAccess,
        rules: &RoutingRules,
    ) -> Result<Option<Request>, Refused> {
        let path = path.split('?').next().unwrap_or_default();
        if path != PAC_PATH {
            let words = "this is a proxy; its script for browsers is /proxy.pac\n";
            self.say(&http_proxy::refusal(404, words)).await?;
            return Err(Refused::BadPath);
        }
        // By the name that the browser has for us; without one, by our address.
        let own = self.stream.local_address();
        let named = host.and_then(|host| host.parse::<ProxyAddress>().ok());
        let by_address =
            || own.and_then(|own| ProxyAddress::new(&own.ip().to_string(), own.port()).ok());
        let Some(proxy) = named.or_else(by_address) else {
            let words = "the header Host does not say by which name you reach this proxy\n";
            self.say(&http_proxy::refusal(400, words)).await?;
            return Err(Refused::NoHost);
        };
        let script = rules.auto_config(&proxy, access);
        let answer = Answer::with_body(200, PAC_CONTENT_TYPE, script);
        self.say(&answer.encode(Persistence::Close)).await?;
        Ok(None)
    }

    /// Says what came of its request.
    pub(super) async fn answer(&mut self, outcome: Result<SocketAddr, &Refusal>) -> io::Result<()> {
        let words = match (&self.spoken, outcome) {
            (Spoken::Pass(_), Ok(_)) | (Spoken::Forwarded, _) => return Ok(()),
            (Spoken::Connect, Ok(_)) => CONNECTED.to_vec(),
            (Spoken::Connect | Spoken::Pass(_), Err(refusal)) => {
                let text = format!("{}\n", refusal.why);
                http_proxy::refusal(refusal.http_status(), &text)
            }
            (Spoken::Socks | Spoken::Nothing, outcome) => {
                let mut words = Vec::new();
                let reply = match outcome {
                    Ok(bound) => Reply::succeeded(bound),
                    Err(refusal) => Reply::failed(refusal.code),
                };
                reply.encode(&mut words);
                words
            }
        };
        self.stream.send_all(&words).await
    }

    /// Waits until the client waits no more for what it has asked.
    pub(super) async fn departure(&mut self) -> Departure {
        self.stream.departure().await
    }

    /// Ends the connection, on which all is said.
    pub(super) async fn part(self, reactor: &Reactor) {
        self.stream.part(reactor, &[]).await;
    }

    /// Where the client is, if it is on a network.
    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.peer_address()
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

    /// As [`Self::into_stream`], with the request that is to be passed on, if it is one.
    pub(super) fn into_parts(self) -> (WrappedStream, Option<Passed>) {
        let passed = match self.spoken {
            Spoken::Pass(passed) => Some(passed),
            Spoken::Nothing | Spoken::Socks | Spoken::Connect | Spoken::Forwarded => None,
        };
        (self.stream, passed)
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
