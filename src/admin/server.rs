//! The listener for operators, on threads that may wait.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::overview::{Overview, Summed};
use super::prometheus::metrics;
use crate::metrics::distribution::{hgrm, hlog};
use crate::protocol::Progress;
use crate::protocol::http_head::{
    Answer, HEADERS_MAX, HeadPolicy, HeaderSlots, Persistence, RequestHead,
};
use crate::runtime::clock;
use crate::runtime::inherited::InheritedSocket;
use crate::runtime::listener::listen_advice;
use crate::shard::status::{Detail, Inquirer};
use crate::time::Timestamp;

/// How long a client may take over its request, and over its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients at a time. A browser opens connections that it may never use.
const CLIENTS_MAX: usize = 16;

/// What histograms are told in.
const MICROS_PER_MILLI: f64 = 1e3;

const PAGE: &str = include_str!("page.html");

/// Why the listener is not there.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot listen on {address} for operators")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot start a thread for operators")]
    Thread(#[source] io::Error),
}

impl AdminError {
    /// What the operator can do about it, as an imperative.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } => listen_advice(source),
            Self::Thread(_) => None,
        }
    }
}

/// A listener that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

/// What all clients are served from.
#[derive(Debug)]
struct Desk<M> {
    inquirer: Inquirer<M>,
    started: Timestamp,
    started_unix: Duration,
    clients: AtomicUsize,
}

impl Admin {
    /// Claims the address.
    ///
    /// # Errors
    ///
    /// When it cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Takes a socket that listens already.
    ///
    /// # Errors
    ///
    /// When it cannot be served.
    pub fn adopt(socket: InheritedSocket) -> Result<Self, AdminError> {
        let address = socket.address();
        let listener = TcpListener::from(OwnedFd::from(socket));
        // Its thread waits in `accept`.
        listener
            .set_nonblocking(false)
            .map_err(|source| AdminError::Listen { address, source })?;
        Ok(Self { listener, address })
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a thread of its own as long as the process lives.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn serve<M: Send + 'static>(self, inquirer: Inquirer<M>) -> Result<(), AdminError> {
        let desk = Arc::new(Desk {
            inquirer,
            started: clock::now(),
            started_unix: clock::unix_time(),
            clients: AtomicUsize::new(0),
        });
        let accept = move || {
            for client in self.listener.incoming() {
                match client {
                    Ok(client) => desk.clone().admit(client),
                    Err(error) => warn!(%error, "accepting an operator failed"),
                }
            }
        };
        thread::Builder::new()
            .name("admin".to_owned())
            .spawn(accept)
            .map_err(AdminError::Thread)?;
        Ok(())
    }
}

impl<M: Send + 'static> Desk<M> {
    /// Serves one client, unless there are too many.
    fn admit(self: Arc<Self>, client: TcpStream) {
        if self.clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let serve = move || {
            // A client that goes away is its own affair.
            let _ = self.serve(client);
            self.clients.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new()
            .name("admin client".to_owned())
            .spawn(serve)
        {
            warn!(%error, "no thread for an operator");
        }
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(PATIENCE))?;
        let answer = match read_target(&mut client)? {
            Ok(path) => self.answer(&path),
            Err(status) => Answer::new(status),
        };
        client.write_all(&answer.encode(Persistence::Close))
    }

    fn answer(&self, path: &str) -> Answer {
        match path {
            "/" => return Answer::with_body(200, "text/html; charset=utf-8", PAGE),
            "/healthz" => return Answer::with_body(200, "text/plain", "ok\n"),
            _ => {}
        }
        let detail = match path {
            "/status" => Detail::Sessions,
            _ => Detail::Counts,
        };
        let sum = Summed::of(self.inquirer.ask(detail), self.inquirer.shards());
        match path {
            "/readyz" if sum.is_ready() => Answer::with_body(200, "text/plain", "ready\n"),
            "/readyz" => Answer::with_body(503, "text/plain", "not ready\n"),
            "/metrics" => Answer::with_body(200, "text/plain; version=0.0.4", metrics(&sum)),
            "/status" => {
                let uptime = clock::now().since(self.started);
                match serde_json::to_vec(&Overview::of(&sum, uptime)) {
                    Ok(json) => Answer::with_body(200, "application/json", json),
                    Err(_) => Answer::new(500),
                }
            }
            _ => self
                .histogram(path, &sum)
                .unwrap_or_else(|| Answer::new(404)),
        }
    }

    /// `/latency/NAME.hgrm` and `/latency/NAME.hlog`.
    fn histogram(&self, path: &str, sum: &Summed) -> Option<Answer> {
        let (name, form) = path.strip_prefix("/latency/")?.split_once('.')?;
        let known = sum.latencies.named();
        let (_, histogram) = known.into_iter().find(|(known, _)| *known == name)?;
        match form {
            "hgrm" => {
                let text = hgrm(histogram, MICROS_PER_MILLI);
                Some(Answer::with_body(200, "text/plain", text))
            }
            "hlog" => {
                let lasted = clock::now().since(self.started);
                let log = hlog(histogram, self.started_unix, lasted, MICROS_PER_MILLI);
                Some(match log {
                    Ok(log) => Answer::with_body(200, "text/plain", log),
                    Err(_) => Answer::new(500),
                })
            }
            _ => None,
        }
    }
}

/// Reads a request's head; its path, or what it is answered.
fn read_target(client: &mut TcpStream) -> io::Result<Result<String, u16>> {
    let mut received = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let decoded: Result<Progress<RequestHead<'_, '_>>, _> =
            RequestHead::decode(&received, HeadPolicy::HTTP, &mut slots);
        match decoded {
            Ok(Progress::Partial { .. }) => {}
            Ok(Progress::Complete { value, .. }) if value.method == "GET" => {
                let path = value.target.split('?').next().unwrap_or_default();
                return Ok(Ok(path.to_owned()));
            }
            Ok(Progress::Complete { .. }) => return Ok(Err(405)),
            Err(_) => return Ok(Err(400)),
        }
    }
}
