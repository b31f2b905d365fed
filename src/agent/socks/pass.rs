//! One HTTP request that is passed on, and its response; [`Exchange`] says of each byte
//! whether it goes through.
//!
//! ```text
//! client ── the request's rest ── server      what is behind it is read away
//!        ── the response ──────── client      and then both connections end
//! ```
//!
//! Such a session is no pair: the data plane looks into nothing.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tracing::debug;

use super::SocksService;
use super::journal::Running;
use super::tunnel::Within;
use crate::metrics::counters::Count;
use crate::protocol::http_proxy::{Exchange, ExchangeError};
use crate::relay::Side;
use crate::runtime::executor::yield_now;
use crate::session::buffered_stream::{BufferedStream, Came};
use crate::session::wrapped_stream::WrappedStream;
use crate::shard::peer_address::PeerAddress;

/// Looks at both sides before others have their turn.
const TURN_LOOKS: usize = 32;

/// How long a response may be silent whose client says no more: it may have gone, which looks
/// the same.
const ENDED_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A request of which the head was read.
#[derive(Debug)]
pub(super) struct Passed {
    /// As the server is to have it.
    pub(super) head: Vec<u8>,
    /// What follows.
    pub(super) exchange: Exchange,
}

/// An exchange on its way.
#[derive(Debug)]
struct Passing<'a> {
    service: &'a SocksService,
    running: Running,
    exchange: Exchange,
    client: BufferedStream,
    server: BufferedStream,
    /// Where the server is reached by a tunnel.
    within: Option<Within>,
    /// The client says no more.
    has_client_ended: bool,
    /// The server says no more.
    has_server_ended: bool,
}

/// How an exchange ended.
#[derive(Debug)]
enum Over {
    /// The client has all that there is.
    Done,
    /// The client is to be told why there is nothing.
    Failed(ExchangeError),
    /// The response broke off, which must not look like its end.
    Broken,
    /// The client went.
    Gone,
    /// The agent has to end.
    Drained,
}

impl SocksService {
    /// Passes on a request, and its response. The server has the address of what it is reached
    /// by.
    pub(super) async fn pass(
        &self,
        client: WrappedStream,
        (server, right, within): (WrappedStream, PeerAddress, Option<Within>),
        Passed { head, exchange }: Passed,
        running: Running,
    ) {
        let counts = &self.world.counters.counts;
        counts.increment(Count::RequestsPassed);
        let _passing = self.world.breakable.enter();
        let ending = &self.world.ending;
        let mut passing = Passing {
            service: self,
            running,
            exchange,
            client: BufferedStream::new(client),
            server: BufferedStream::new(server),
            within,
            has_client_ended: false,
            has_server_ended: false,
        };
        let over = match passing.server.queue(&head) {
            Ok(()) => {
                passing.count(Side::Left, head.len());
                let over = ending.or_raised(self.run(&mut passing)).await;
                over.unwrap_or(Over::Drained)
            }
            Err(_) => Over::Failed(ExchangeError::NoResponse),
        };
        let reactor = &self.world.reactor;
        let Passing {
            mut client,
            server,
            within,
            running,
            ..
        } = passing;
        running.log_exchange(right, over.as_str());
        drop(running);
        match over {
            Over::Done => {}
            Over::Failed(error) => {
                debug!(%error, "not passed on");
                // It is small, and nothing else waits.
                let _ = client.queue(&error.answer()).and_then(|()| client.flush());
            }
            Over::Broken | Over::Gone | Over::Drained => {
                client.reset();
                if let Some(within) = within {
                    within.cut();
                }
                return server.reset();
            }
        }
        // Neither waits for anything more.
        let parting = async {
            client.part(reactor).await;
            server.part(reactor).await;
        };
        ending.or_raised(parting).await;
    }

    async fn run(&self, passing: &mut Passing<'_>) -> Over {
        let reactor = &self.world.reactor;
        loop {
            for _ in 0..TURN_LOOKS {
                match passing.look() {
                    Err(over) => return over,
                    Ok(true) => {}
                    Ok(false) => {
                        let has_client_ended = passing.has_client_ended;
                        let event = poll_fn(|context| passing.poll_event(context));
                        let until = reactor.now() + ENDED_CLIENT_TIMEOUT;
                        if !has_client_ended {
                            event.await;
                        } else if reactor.deadline(until, event).await.is_none() {
                            return Over::Gone;
                        }
                    }
                }
            }
            yield_now().await;
        }
    }
}

impl Passing<'_> {
    /// Counts what is passed on.
    fn count(&self, from: Side, bytes: usize) {
        self.running.add(from, bytes);
        let counts = &self.service.world.counters.counts;
        counts.add(Count::BytesPassed, bytes as u64);
    }

    /// Moves what can be moved; whether anything was.
    fn look(&mut self) -> Result<bool, Over> {
        let came = self.look_at_client()? | self.look_at_server()?;
        let unsent = self.unsent_bytes();
        self.client.flush().map_err(|_| Over::Gone)?;
        match (self.has_response(), self.client.unsent().is_empty()) {
            (true, true) => return Err(Over::Done),
            (true, false) => {}
            // A server may go before it has read all, with its response said.
            (false, _) if self.server.flush().is_err() && !self.server.may_read() => {
                return Err(self.broken());
            }
            (false, _) => {}
        }
        Ok(came || self.unsent_bytes() != unsent)
    }

    /// Whether all of the response has come.
    fn has_response(&self) -> bool {
        self.has_server_ended || self.exchange.has_ended()
    }

    fn unsent_bytes(&self) -> usize {
        self.client.unsent().len() + self.server.unsent().len()
    }

    fn look_at_client(&mut self) -> Result<bool, Over> {
        if self.has_client_ended || self.server.is_full() {
            return Ok(false);
        }
        let came = self.client.receive().map_err(|_| Over::Gone)?;
        let bytes = self.client.received();
        let all = bytes.len();
        let handled = self.exchange.handle_request(bytes);
        let count = handled.map_err(|error| self.failed(error))?;
        let wrapped = self.server.queue(&bytes[..count]);
        wrapped.map_err(|_| self.broken())?;
        self.count(Side::Left, count);
        self.client.consume(all);
        if came == Came::End {
            if !self.exchange.has_request() {
                return Err(Over::Gone);
            }
            self.has_client_ended = true;
        }
        Ok(came != Came::Nothing)
    }

    fn look_at_server(&mut self) -> Result<bool, Over> {
        if self.has_response() || self.client.is_full() {
            return Ok(false);
        }
        let came = self.server.receive().map_err(|_| self.broken())?;
        let bytes = self.server.received();
        let all = bytes.len();
        let mut response = Vec::new();
        let handled = self.exchange.handle_response(bytes, &mut response);
        self.client.queue(&response).map_err(|_| Over::Gone)?;
        self.count(Side::Right, response.len());
        handled.map_err(|error| self.failed(error))?;
        self.server.consume(all);
        if came == Came::End {
            if self.within.as_ref().is_some_and(Within::is_cut) {
                return Err(self.broken());
            }
            if !self.exchange.has_answer() {
                return Err(Over::Failed(ExchangeError::NoResponse));
            }
            self.has_server_ended = true;
        }
        Ok(came != Came::Nothing)
    }

    /// What a wrong word comes to: a client that has a response would take ours for more of
    /// it.
    fn failed(&self, error: ExchangeError) -> Over {
        match self.exchange.has_answer() {
            true => Over::Broken,
            false => Over::Failed(error),
        }
    }

    fn broken(&self) -> Over {
        self.failed(ExchangeError::NoResponse)
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let client = self.client.poll_event(context);
        let server = self.server.poll_event(context);
        match client.is_ready() || server.is_ready() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Over {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "finished",
            Self::Failed(_) => "failed",
            Self::Broken => "broken",
            Self::Gone => "client_gone",
            Self::Drained => "drained",
        }
    }
}
