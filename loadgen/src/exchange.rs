//! What a leg says before it is one, and what it is told.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, bail};
use midspan::protocol::Progress;
use midspan::protocol::jet::{PACKET_BYTES_MAX, Packet, Reply, Status};
use midspan::relay::codec::{Codec, Workshop};
use midspan::runtime::socket::Socket;
use midspan::session::approach::Conversation;
use midspan::session::introduction::Introduction;
use midspan::tls::{Session, Wire};
use rustix::io::Errno;

use crate::jproxy::TunnelDialogue;
use crate::socks::SocksDialogue;
use crate::wrapped::{Coded, Wrapped};

/// What a leg says before it is one, on a socket that may still be connecting.
#[derive(Debug)]
pub(crate) enum Exchange {
    /// One request and its reply.
    Plain {
        /// `None` once it is out.
        request: Option<Box<Packet>>,
        reply: Vec<u8>,
    },
    /// More than that, each side in its turn.
    InTurns(Box<Turns>),
}

#[derive(Debug)]
pub(crate) struct Turns {
    dialogue: Dialogue,
    /// Bytes of the output that are out.
    sent: usize,
    workshop: Rc<RefCell<Workshop>>,
}

/// Who says what, without the socket.
#[derive(Debug)]
pub(crate) enum Dialogue {
    /// A request over another transport.
    Introduction(Introduction),
    /// TLS, and nothing to ask for.
    Tls {
        session: Option<Box<Session>>,
        output: Wire,
    },
    Socks(SocksDialogue),
    Tunnel(Box<TunnelDialogue>),
}

/// What an exchange comes to.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    pub(crate) reply: Option<Reply>,
    pub(crate) wrapped: Option<Box<Wrapped>>,
}

impl Exchange {
    pub(crate) fn in_turns(dialogue: Dialogue, workshop: &Rc<RefCell<Workshop>>) -> Self {
        Self::InTurns(Box::new(Turns {
            dialogue,
            sent: 0,
            workshop: Rc::clone(workshop),
        }))
    }

    /// Goes as far as the socket allows; what was granted when it is there,
    /// `None` when the socket has to become ready first.
    ///
    /// # Errors
    ///
    /// When the connection fails, the reply is none, or it is a refusal.
    pub(crate) fn advance(&mut self, socket: &Socket) -> anyhow::Result<Option<Granted>> {
        let (request, reply) = match self {
            Self::Plain { request, reply } => (request, reply),
            Self::InTurns(turns) => return turns.advance(socket),
        };
        if let Some(packet) = request {
            match socket.send(packet.as_bytes()) {
                Ok(count) if count == packet.as_bytes().len() => *request = None,
                Ok(count) => bail!("only {count} bytes of a jet request went out"),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error).context("cannot send a jet request"),
            }
        }
        let mut buffer = [0; PACKET_BYTES_MAX];
        let Some(count) = receive(socket, &mut buffer)? else {
            return Ok(None);
        };
        reply.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match Reply::decode(reply)? {
            Progress::Partial { .. } => Ok(None),
            Progress::Complete { value, consumed } if consumed == reply.len() => {
                if value.status != Status::OK {
                    bail!("the relay answered with status {}", value.status.as_u16());
                }
                Ok(Some(Granted {
                    reply: Some(value),
                    wrapped: None,
                }))
            }
            // Nobody has sent anything yet on the other leg.
            Progress::Complete { consumed, .. } => {
                bail!("{} bytes came behind a jet reply", reply.len() - consumed)
            }
        }
    }
}

impl Turns {
    fn advance(&mut self, socket: &Socket) -> anyhow::Result<Option<Granted>> {
        loop {
            if !self.send(socket)? {
                return Ok(None);
            }
            let mut buffer = [0; PACKET_BYTES_MAX];
            let Some(count) = receive(socket, &mut buffer)? else {
                return Ok(None);
            };
            let received = buffer.get_mut(..count).unwrap_or_default();
            let granted = self.dialogue.receive(received, &self.workshop)?;
            if let Some(granted) = granted {
                // The last words of a handshake: few, and the socket is empty.
                if !self.send(socket)? {
                    bail!("the last words of a handshake do not go out");
                }
                return Ok(Some(granted));
            }
        }
    }

    /// Sends what is to be said now; false when the socket takes no more.
    fn send(&mut self, socket: &Socket) -> anyhow::Result<bool> {
        let output = self.dialogue.output();
        while self.sent < output.len() {
            match socket.send(output.get(self.sent..).unwrap_or_default()) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error).context("cannot send a request"),
            }
        }
        self.sent = 0;
        self.dialogue.handle_sent();
        Ok(true)
    }
}

impl Dialogue {
    fn output(&self) -> &[u8] {
        match self {
            Self::Introduction(introduction) => introduction.output(),
            Self::Tls { output, .. } => output.as_bytes(),
            Self::Socks(dialogue) => dialogue.output(),
            Self::Tunnel(dialogue) => dialogue.output(),
        }
    }

    fn handle_sent(&mut self) {
        match self {
            Self::Introduction(introduction) => introduction.handle_sent(),
            Self::Tls { output, .. } => output.clear(),
            Self::Socks(dialogue) => dialogue.handle_sent(),
            Self::Tunnel(dialogue) => dialogue.handle_sent(),
        }
    }

    fn receive(
        &mut self,
        bytes: &mut [u8],
        workshop: &Rc<RefCell<Workshop>>,
    ) -> anyhow::Result<Option<Granted>> {
        let granted = |reply, codec: Option<Box<Codec>>| {
            let coded = codec.map(|codec| Coded::new(codec, workshop.clone()));
            let wrapped = coded.map(|coded| Box::new(Wrapped::Coded(coded)));
            Granted { reply, wrapped }
        };
        match self {
            Self::Introduction(introduction) => Ok(introduction
                .receive(bytes)?
                .map(|introduced| granted(introduced.reply, introduced.codec))),
            Self::Tls { session, output } => {
                let tls = session.as_mut().context("tls is over")?;
                let mut sealed = tls.take_begun();
                sealed.extend_from_slice(bytes);
                let mut plain = vec![0; sealed.len()];
                let opened = tls.open(&mut sealed, &mut plain)?;
                tls.take_words(output);
                if opened.bytes > 0 {
                    bail!("{} bytes came behind a handshake", opened.bytes);
                }
                let is_over = !tls.is_handshaking();
                Ok(is_over.then(|| granted(None, Codec::new(session.take(), None))))
            }
            Self::Socks(dialogue) => Ok(dialogue.receive(bytes)?.then(Granted::default)),
            Self::Tunnel(dialogue) => Ok(dialogue.receive(bytes)?.map(|channel| Granted {
                reply: None,
                wrapped: Some(Box::new(Wrapped::Channel(channel))),
            })),
        }
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> anyhow::Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(0) => bail!("the relay closed before its reply was complete"),
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("cannot read a reply"),
    }
}
