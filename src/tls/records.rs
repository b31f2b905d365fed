//! One connection's records: opened out of a buffer into another, and sealed.
//!
//! The caller reads sealed bytes where [`Session::lead_in`] ends, has them opened
//! with [`Session::open`], and sends whatever [`Session::take_words`] gives: the
//! handshake, answers to key updates, alerts. What [`Session::seal`] gives follows
//! these, in the order of the calls.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, Error, InvalidMessage, ServerConfig};

/// Bytes that are read at a time, at least.
const READ_BYTES_MIN: usize = 1 << 10;

/// Room for what may be left of the bytes before, and for what is read behind it.
pub const SEALED_BYTES_MIN: usize = BEGUN_BYTES_MAX + READ_BYTES_MIN;

/// Bytes of a record's header, the last two its length.
const HEADER_BYTES: usize = 5;

/// A record from this size on belongs to a stream in bulk, whose next records are
/// as long.
const BULK_RECORD_BYTES: usize = 4 << 10;

/// What sealing adds to a record, at most: header, nonce, tag and type, rounded up.
const OVERHEAD_BYTES: usize = 64;

/// What may be left of the bytes before: a handshake's message in as many records as
/// it takes. rustls takes none longer than 64 KiB, but pieces of it as small and as
/// padded as the peer likes.
const BEGUN_BYTES_MAX: usize = 80 << 10;

/// Plain bytes in one record, at most.
const FRAGMENT_BYTES_MAX: usize = 16 << 10;

/// One TLS connection, from its first byte on.
pub struct Session {
    connection: Connection,
    /// What came of a record that is cut.
    begun: Vec<u8>,
    /// Sealed bytes to be sent before anything else is sealed.
    words: Vec<u8>,
    /// The length of the last record, if it was one of many.
    bulk_record_bytes: usize,
    has_peer_closed: bool,
    is_closed: bool,
    /// It is asked for nothing any more.
    has_failed: bool,
}

enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("begun_bytes", &self.begun.len())
            .field("has_peer_closed", &self.has_peer_closed)
            .finish_non_exhaustive()
    }
}

/// What came of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Plain bytes, at the start of the buffer.
    pub bytes: usize,
    /// The peer says no more: it sent `close_notify`.
    pub is_end: bool,
}

/// Sealed bytes on their way: a buffer that is filled again and again.
#[derive(Default)]
pub struct Wire {
    bytes: Vec<u8>,
    len: usize,
}

/// How many bytes, not which.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("bytes", &self.len).finish()
    }
}

impl Wire {
    /// Empties it.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// What is in it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Adds bytes that are sealed, or need not be.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Room behind what is in it, of this size at least.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() < self.len + bytes {
            self.bytes.resize(self.len + bytes, 0);
        }
        &mut self.bytes[self.len..]
    }
}

impl Session {
    /// The side that was dialled.
    ///
    /// # Errors
    ///
    /// When the configuration is none.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config)
            .map(Connection::Server)
            .map(Self::new)
    }

    /// The side that dials `name`.
    ///
    /// # Errors
    ///
    /// When the configuration is none.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name)
            .map(Connection::Client)
            .map(Self::new)
    }

    const fn new(connection: Connection) -> Self {
        Self {
            connection,
            begun: Vec::new(),
            words: Vec::new(),
            bulk_record_bytes: 0,
            has_peer_closed: false,
            is_closed: false,
            has_failed: false,
        }
    }

    /// Whether the handshake is under way.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        match &self.connection {
            Connection::Server(connection) => connection.is_handshaking(),
            Connection::Client(connection) => connection.is_handshaking(),
        }
    }

    /// Whether the peer has said that nothing follows.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.has_peer_closed
    }

    /// Whether no record has begun that did not end.
    #[must_use]
    pub const fn may_end_here(&self) -> bool {
        self.begun.is_empty()
    }

    /// Puts what is left of the bytes before into `sealed`, and returns where the
    /// next ones go: up to `asked` with those before, and of a stream in bulk to the
    /// end of a record, so that little is left over. `sealed` has room for
    /// [`SEALED_BYTES_MIN`] and what is asked for.
    pub fn lead_in(&self, sealed: &mut [u8], asked: usize) -> Range<usize> {
        let start = self.begun.len();
        sealed[..start].copy_from_slice(&self.begun);
        let over = asked.checked_rem(self.bulk_record_bytes).unwrap_or(0);
        let whole = if over < asked { asked - over } else { asked };
        // Whatever is asked for, a record that is cut comes to its end.
        start..whole.max(start + READ_BYTES_MIN).min(sealed.len())
    }

    /// Takes what is left of the bytes before, to be put before the next.
    pub fn take_begun(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }

    /// Opens the records in `sealed`, which begins with the lead-in, into `plain`,
    /// which is at least as long.
    ///
    /// # Errors
    ///
    /// When the peer's bytes are no TLS, or it does not trust us, or we it: there are
    /// words for it then.
    pub fn open(&mut self, sealed: &mut [u8], plain: &mut [u8]) -> Result<Opened, Error> {
        if self.has_failed {
            return Err(Error::General(
                "the connection has failed before".to_owned(),
            ));
        }
        self.begun.clear();
        let mut opening = Opening {
            plain,
            filled: 0,
            words: &mut self.words,
            record_bytes: &mut self.bulk_record_bytes,
        };
        let mut consumed = 0;
        loop {
            let rest = &mut sealed[consumed..];
            note_record(rest, opening.record_bytes);
            let step = match &mut self.connection {
                Connection::Server(connection) => {
                    opening.step(connection.process_tls_records(rest))
                }
                Connection::Client(connection) => {
                    opening.step(connection.process_tls_records(rest))
                }
            };
            match step {
                Ok((discard, Step::Again)) => consumed += discard,
                Ok((discard, Step::PeerClosed)) => {
                    consumed += discard;
                    self.has_peer_closed = true;
                }
                Ok((discard, Step::Blocked)) => {
                    consumed += discard;
                    break;
                }
                Err(error) => {
                    self.collect_alert(&mut sealed[consumed..]);
                    return Err(error);
                }
            }
        }
        let bytes = opening.filled;
        if self.has_peer_closed {
            // Nothing behind it counts.
            self.begun = Vec::new();
        } else if sealed.len() - consumed > BEGUN_BYTES_MAX {
            self.has_failed = true;
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        } else if consumed < sealed.len() {
            self.begun.extend_from_slice(&sealed[consumed..]);
        } else {
            self.begun = Vec::new();
        }
        Ok(Opened {
            bytes,
            is_end: self.has_peer_closed,
        })
    }

    /// Whether there is something to be sent that is nobody's data.
    #[must_use]
    pub const fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// Takes what is to be sent before anything else.
    pub fn take_words(&mut self, wire: &mut Wire) {
        wire.push(&std::mem::take(&mut self.words));
    }

    /// Has some of what was taken be sent before anything else after all.
    pub fn put_back_words(&mut self, words: &[u8]) {
        self.words.splice(..0, words.iter().copied());
    }

    /// Seals `plain` behind what is to be sent before it.
    ///
    /// # Errors
    ///
    /// When the connection cannot seal: its handshake is not over, it was closed, or
    /// its keys are used up.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Wire) -> Result<(), SealError> {
        self.take_words(wire);
        if self.has_failed {
            return Err(SealError::NotOpen);
        }
        let records = plain.len().div_ceil(FRAGMENT_BYTES_MAX).max(1);
        let room = plain.len() + records * OVERHEAD_BYTES;
        self.write(wire, room, |state, out| state.encrypt(plain, out))
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    ///
    /// As [`Self::seal`].
    pub fn close(&mut self, wire: &mut Wire) -> Result<(), SealError> {
        self.take_words(wire);
        if self.has_failed || std::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        self.write(wire, OVERHEAD_BYTES, |state, out| state.close(out))
    }

    fn write(
        &mut self,
        wire: &mut Wire,
        room: usize,
        mut write: impl FnMut(&mut dyn Write, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), SealError> {
        loop {
            // Not an empty buffer: a handshake's message may be cut, and rustls knows
            // it by its place among these.
            let begun = &mut self.begun;
            let written = match &mut self.connection {
                Connection::Server(connection) => write_step(
                    connection.process_tls_records(begun),
                    wire,
                    room,
                    &mut write,
                ),
                Connection::Client(connection) => write_step(
                    connection.process_tls_records(begun),
                    wire,
                    room,
                    &mut write,
                ),
            };
            if let Some(result) = written {
                return result;
            }
        }
    }

    /// After an error the connection may have an alert to send. It must not be asked
    /// for anything else.
    fn collect_alert(&mut self, rest: &mut [u8]) {
        self.has_failed = true;
        let mut none = Opening {
            plain: &mut [],
            filled: 0,
            words: &mut self.words,
            record_bytes: &mut 0,
        };
        // An error here would be the one that is known.
        match &mut self.connection {
            Connection::Server(connection) => {
                while connection.wants_write() {
                    let _ = none.step(connection.process_tls_records(rest));
                }
            }
            Connection::Client(connection) => {
                while connection.wants_write() {
                    let _ = none.step(connection.process_tls_records(rest));
                }
            }
        }
    }
}

/// Why bytes cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the tls connection takes no data: its handshake is not over, or it was closed")]
    NotOpen,
    #[error("the tls connection has used up its keys")]
    Exhausted,
}

/// Where opening is.
struct Opening<'a> {
    plain: &'a mut [u8],
    filled: usize,
    words: &'a mut Vec<u8>,
    record_bytes: &'a mut usize,
}

/// How to go on.
enum Step {
    Again,
    PeerClosed,
    /// More bytes are needed.
    Blocked,
}

impl Opening<'_> {
    /// Does one step; tells how many sealed bytes are done with.
    fn step<Data>(
        &mut self,
        status: UnbufferedStatus<'_, '_, Data>,
    ) -> Result<(usize, Step), Error> {
        let mut discard = status.discard;
        let step = match status.state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    let end = self.filled + record.payload.len();
                    self.plain[self.filled..end].copy_from_slice(record.payload);
                    self.filled = end;
                }
                Step::Again
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let start = self.words.len();
                if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                    data.encode(&mut [])
                {
                    self.words.resize(start + required_size, 0);
                    let encoded = data.encode(&mut self.words[start..]).unwrap_or(0);
                    self.words.truncate(start + encoded);
                }
                Step::Again
            }
            ConnectionState::TransmitTlsData(data) => {
                // They are among our words, ahead of all that is sealed later.
                data.done();
                Step::Again
            }
            ConnectionState::PeerClosed => Step::PeerClosed,
            _ => Step::Blocked,
        };
        Ok((discard, step))
    }
}

/// Writes into room for it, and tells how much.
type WriteWith<'a> = dyn FnMut(&mut dyn Write, &mut [u8]) -> Result<usize, EncryptError> + 'a;

/// A connection's state in which it takes data, whichever side it is.
trait Write {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError>;
    fn close(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Write for rustls::unbuffered::WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError> {
        rustls::unbuffered::WriteTraffic::encrypt(self, plain, out)
    }

    fn close(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(out)
    }
}

/// Does one step towards writing; `None`: there is another.
fn write_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    wire: &mut Wire,
    room: usize,
    write: &mut WriteWith<'_>,
) -> Option<Result<(), SealError>> {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let mut room = room;
            loop {
                match write(&mut traffic, wire.room(room)) {
                    Ok(written) => {
                        wire.len += written;
                        return Some(Ok(()));
                    }
                    Err(EncryptError::InsufficientSize(InsufficientSizeError {
                        required_size,
                    })) if required_size > room => room = required_size,
                    Err(_) => return Some(Err(SealError::Exhausted)),
                }
            }
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                data.encode(&mut [])
            {
                let encoded = data.encode(wire.room(required_size)).unwrap_or(0);
                wire.len += encoded;
            }
            None
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            None
        }
        Ok(ConnectionState::PeerClosed) => None,
        Ok(_) | Err(_) => Some(Err(SealError::NotOpen)),
    }
}

/// Notes how long the record at the start of `sealed` is.
fn note_record(sealed: &[u8], record_bytes: &mut usize) {
    if let Some(&[_, _, _, high, low]) = sealed.first_chunk::<HEADER_BYTES>() {
        let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if bytes <= sealed.len() {
            *record_bytes = if bytes >= BULK_RECORD_BYTES { bytes } else { 0 };
        }
    }
}
