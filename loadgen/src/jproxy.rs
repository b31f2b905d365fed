//! The client's side of jProxy: a tunnel for each pair, with one channel to the generator's own
//! backend.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::{fmt, fs};

use anyhow::{Context, bail};
use midspan::access::jproxy::ClientKey;
use midspan::protocol::jproxy::{
    ConnectStatus, DATA_BYTES_MAX, Dialect, EndReason, FromClient, FromServer, Opener, Sealer,
};
use midspan::protocol::socks5::Destination;
use midspan::runtime::socket::Socket;
use midspan::session::approach::Conversation;
use midspan::session::tunnel_entry::TunnelEntry;
use rustix::io::Errno;

use crate::wrapped::{READ_BYTES, send_or_keep, send_unsent, take_unread};

/// The only channel of a tunnel.
const CHANNEL: u16 = 0;

/// What all near legs say.
#[derive(Clone, Debug)]
pub(crate) struct JproxyClient {
    key: Rc<ClientKey>,
    dialect: Dialect,
    backend: SocketAddr,
}

impl JproxyClient {
    pub(crate) fn new(key: &Path, dialect: Dialect, backend: SocketAddr) -> anyhow::Result<Self> {
        let named = || format!("cannot read the key in {}", key.display());
        let bytes = fs::read(key).with_context(named)?;
        Ok(Self {
            key: Rc::new(ClientKey::decode(&bytes).with_context(named)?),
            dialect,
            backend,
        })
    }

    /// The near leg's exchange.
    pub(crate) fn connect(&self) -> anyhow::Result<TunnelDialogue> {
        let entry = TunnelEntry::new(None, *self.key.hash())?;
        Ok(TunnelDialogue {
            client: self.clone(),
            output: entry.output().to_vec(),
            state: State::Entering(entry),
        })
    }
}

/// One tunnel on its way to its channel.
pub(crate) struct TunnelDialogue {
    client: JproxyClient,
    output: Vec<u8>,
    state: State,
}

enum State {
    Entering(TunnelEntry),
    /// The channel is asked for.
    Asking(Channel),
    Over,
}

impl TunnelDialogue {
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    pub(crate) fn handle_sent(&mut self) {
        self.output.clear();
    }

    /// Bytes have come; gives the channel once the backend is dialled.
    ///
    /// # Errors
    ///
    /// When the relay refuses, or says what belongs to no such exchange.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> anyhow::Result<Option<Channel>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Entering(mut entry) => {
                // What it has said before is in the output already.
                entry.handle_sent();
                let entered = entry.receive(bytes)?;
                let Some(entered) = entered else {
                    self.output.extend_from_slice(entry.output());
                    self.state = State::Entering(entry);
                    return Ok(None);
                };
                let key = self.client.key.decrypt(&entered.encrypted_key);
                let mut channel = Channel {
                    dialect: self.client.dialect,
                    sealer: Sealer::new(&key),
                    opener: Opener::new(&key),
                    begun: entered.early,
                    wire: Vec::new(),
                    unsent: Vec::new(),
                    unread: Vec::new(),
                    has_said_end: false,
                    has_heard_end: false,
                };
                let backend = Destination::from(self.client.backend);
                channel.seal(&FromClient::Connect(CHANNEL, backend));
                self.output.append(&mut channel.wire);
                self.state = State::Asking(channel);
                Ok(None)
            }
            State::Asking(mut channel) => {
                channel.begun.extend_from_slice(bytes);
                let Some(status) = channel.take_answer()? else {
                    self.state = State::Asking(channel);
                    return Ok(None);
                };
                match status {
                    ConnectStatus::Connected => Ok(Some(channel)),
                    status => bail!("the relay answered {status:?}"),
                }
            }
            State::Over => bail!("the exchange is over"),
        }
    }
}

/// A leg whose bytes are a channel's.
pub(crate) struct Channel {
    dialect: Dialect,
    sealer: Sealer,
    opener: Opener,
    /// The beginning of a packet.
    begun: Vec<u8>,
    /// Empty between two calls.
    wire: Vec<u8>,
    /// Of what is sealed, that which the socket did not take.
    unsent: Vec<u8>,
    /// Of what was read, that which nobody took.
    unread: Vec<u8>,
    has_said_end: bool,
    has_heard_end: bool,
}

impl Channel {
    fn seal(&mut self, packet: &FromClient<'_>) {
        let mut head = Vec::new();
        let data = packet.encode_head(self.dialect, &mut head);
        self.sealer.seal(&[&head, data], &mut self.wire);
    }

    fn take_answer(&mut self) -> anyhow::Result<Option<ConnectStatus>> {
        let consumed = self.opener.open(&self.begun);
        self.begun.drain(..consumed);
        let mut payloads = self.opener.payloads();
        let Some(payload) = payloads.next() else {
            return Ok(None);
        };
        match FromServer::decode(payload?, self.dialect)? {
            FromServer::Connected { status, .. } if payloads.next().is_none() => Ok(Some(status)),
            other => bail!("the relay said {other:?} before, or behind, its answer"),
        }
    }

    /// Sends all of `bytes`, once what was said before is out.
    pub(crate) fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        self.flush(socket)?;
        for piece in bytes.chunks(DATA_BYTES_MAX) {
            self.seal(&FromClient::Data(CHANNEL, piece));
        }
        send_or_keep(socket, &self.wire, &mut self.unsent)?;
        self.wire.clear();
        Ok(bytes.len())
    }

    /// Says that nothing follows. Call again after `EAGAIN`.
    pub(crate) fn end(&mut self, socket: &Socket) -> Result<(), Errno> {
        if !std::mem::replace(&mut self.has_said_end, true) {
            self.seal(&FromClient::End(CHANNEL, EndReason::Finished));
            self.unsent.append(&mut self.wire);
        }
        self.flush(socket)
    }

    /// Sends what the socket did not take.
    pub(crate) fn flush(&mut self, socket: &Socket) -> Result<(), Errno> {
        send_unsent(socket, &mut self.unsent)
    }

    /// Reads what has come by the channel; 0 is its end.
    pub(crate) fn recv(&mut self, socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
        while self.unread.is_empty() {
            if self.has_heard_end {
                return Ok(0);
            }
            self.read(socket)?;
        }
        Ok(take_unread(&mut self.unread, buffer))
    }

    fn read(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.begun.reserve(READ_BYTES);
        if socket.recv_behind(&mut self.begun)? == 0 {
            // A channel does not end with its tunnel.
            return Err(Errno::CONNRESET);
        }
        let consumed = self.opener.open(&self.begun);
        self.begun.drain(..consumed);
        for payload in self.opener.payloads() {
            let payload = payload.map_err(|_| Errno::PROTO)?;
            match FromServer::decode(payload, self.dialect) {
                Ok(FromServer::Data(CHANNEL, data)) => self.unread.extend_from_slice(data),
                Ok(FromServer::End(CHANNEL, EndReason::Finished)) => self.has_heard_end = true,
                Ok(FromServer::End(..)) => return Err(Errno::CONNRESET),
                Ok(_) | Err(_) => return Err(Errno::PROTO),
            }
        }
        Ok(())
    }
}

/// Without what passes.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

/// Without keys.
impl fmt::Debug for TunnelDialogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelDialogue").finish_non_exhaustive()
    }
}
