//! A stream as one task sees it, until its bytes are the plane's.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::{Streams, World};
use crate::protocol::Progress;
use crate::protocol::ptth_quic::{HEADER_BYTES, StreamCode};
use crate::quic::calls::{Read, Write};
use crate::quic::connection::{ConnectionKey, StreamKey};

/// A stream that one task reads messages from and writes messages to. One that is dropped is
/// broken off.
pub struct QuicStream<C: Copy, M: Send + 'static> {
    world: Rc<World<C, M>>,
    key: StreamKey,
    /// It is somebody else's, or has ended as it should.
    is_let_go: bool,
}

/// Why no message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMessage<E> {
    /// What came is none.
    #[error(transparent)]
    Wrong(E),
    /// The stream has ended before.
    #[error("the stream has ended")]
    Ended,
    /// The peer broke it off.
    #[error("the stream was broken off with code {0}")]
    Reset(u64),
    /// Its connection is gone.
    #[error("the connection is lost")]
    Lost,
}

impl<C: Copy, M: Send + 'static> QuicStream<C, M> {
    /// A stream that was opened, by us or by the peer.
    #[must_use]
    pub const fn new(world: Rc<World<C, M>>, key: StreamKey) -> Self {
        Self {
            world,
            key,
            is_let_go: false,
        }
    }

    /// Opens one; `None` when the peer allows no more, or its connection is gone.
    #[must_use]
    pub fn open(world: &Rc<World<C, M>>, connection: ConnectionKey) -> Option<Self> {
        let key = world
            .streams
            .with_driver(|driver| driver.open(connection))?;
        Some(Self::new(Rc::clone(world), key))
    }

    /// Opens one, as soon as the peer allows it; `None` when its connection is gone.
    pub async fn open_when_allowed(
        world: &Rc<World<C, M>>,
        connection: ConnectionKey,
    ) -> Option<Self> {
        let place = OpenerPlace {
            streams: &world.streams,
            number: world.streams.with_inner(|inner| {
                inner.openers_begun += 1;
                inner.openers_begun
            }),
        };
        let key = poll_fn(|context| {
            world.streams.with_inner(|inner| {
                let opened = inner.driver.open(connection);
                if opened.is_none() && inner.driver.unfinished_streams(connection).is_some() {
                    let waiting = (connection, context.waker().clone());
                    inner.openers.insert(place.number, waiting);
                    return Poll::Pending;
                }
                Poll::Ready(opened)
            })
        });
        Some(Self::new(Rc::clone(world), key.await?))
    }

    /// By what it is known.
    #[must_use]
    pub const fn key(&self) -> StreamKey {
        self.key
    }

    /// Reads one message, and nothing of what is behind it.
    ///
    /// # Errors
    ///
    /// When none comes, or something else.
    pub async fn read_message<T, E>(
        &self,
        decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
    ) -> Result<T, NoMessage<E>> {
        let mut message = Vec::new();
        let mut missing = HEADER_BYTES;
        loop {
            match self.read(missing).await {
                Ok(pieces) => pieces
                    .iter()
                    .for_each(|piece| message.extend_from_slice(piece)),
                Err(Read::Reset(code)) => return Err(NoMessage::Reset(code)),
                Err(Read::Ended) => return Err(NoMessage::Ended),
                Err(_) => return Err(NoMessage::Lost),
            }
            match decode(&message).map_err(NoMessage::Wrong)? {
                Progress::Complete { value, .. } => return Ok(value),
                Progress::Partial { more_bytes_min } => missing = more_bytes_min,
            }
        }
    }

    /// Waits until nothing more can come; gives the first byte if something does.
    pub async fn more(&self) -> Option<u8> {
        let pieces = self.read(1).await.ok()?;
        pieces.first()?.first().copied()
    }

    /// Waits until the peer breaks it off, in either direction, or is gone.
    pub async fn given_up(&self) {
        poll_fn(|context| {
            let mut inner = self.world.streams.inner.borrow_mut();
            let Some(inner) = &mut *inner else {
                return Poll::Ready(());
            };
            let driver = &mut inner.driver;
            if driver.received_stop(self.key).is_some()
                || driver.received_reset(self.key).is_some()
                || driver.unfinished_streams(self.key.connection).is_none()
            {
                return Poll::Ready(());
            }
            inner.waiting.insert(self.key, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits for at most so many bytes, and at least one.
    async fn read(&self, bytes_max: usize) -> Result<Vec<Bytes>, Read> {
        poll_fn(|context| {
            let mut inner = self.world.streams.inner.borrow_mut();
            let Some(inner) = &mut *inner else {
                return Poll::Ready(Err(Read::Gone));
            };
            let mut pieces = Vec::new();
            let read = inner.driver.read(self.key, bytes_max, &mut pieces);
            match read {
                _ if !pieces.is_empty() => Poll::Ready(Ok(pieces)),
                Read::Blocked | Read::More => {
                    inner.waiting.insert(self.key, context.waker().clone());
                    Poll::Pending
                }
                Read::Ended | Read::Reset(_) | Read::Gone => Poll::Ready(Err(read)),
            }
        })
        .await
    }

    /// Writes what `encode` appends; as [`Self::write`].
    pub async fn say(&self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut message = Vec::new();
        encode(&mut message);
        self.write(&message).await
    }

    /// Writes a message, waiting for room. False when nobody reads any more.
    pub async fn write(&self, message: &[u8]) -> bool {
        let mut bytes = Bytes::copy_from_slice(message);
        poll_fn(|context| {
            let mut inner = self.world.streams.inner.borrow_mut();
            let Some(inner) = &mut *inner else {
                return Poll::Ready(false);
            };
            match inner.driver.write(self.key, &mut bytes) {
                Write::Done => Poll::Ready(true),
                Write::Blocked => {
                    inner.waiting.insert(self.key, context.waker().clone());
                    Poll::Pending
                }
                Write::Stopped(_) | Write::Gone => Poll::Ready(false),
            }
        })
        .await
    }

    /// Ends it as it should: what was written arrives, and nothing more is read, for which the
    /// peer is told `code`.
    pub fn finish(mut self, code: StreamCode) {
        self.is_let_go = true;
        self.world.streams.with_driver(|driver| {
            driver.finish(self.key);
            driver.stop(self.key, code.value());
        });
    }

    /// Breaks it off both ways.
    pub fn break_off(mut self, code: StreamCode) {
        self.is_let_go = true;
        self.cut(code);
    }

    /// It is somebody else's from now on.
    pub(super) fn give_up(mut self) -> StreamKey {
        self.is_let_go = true;
        self.key
    }

    /// It stays as it is, for as long as its connection.
    pub fn keep(self) {
        self.give_up();
    }

    fn cut(&self, code: StreamCode) {
        self.world.streams.with_driver(|driver| {
            driver.reset(self.key, code.value());
            driver.stop(self.key, code.value());
        });
    }
}

/// The place of a task that waits until it may open a stream, given up with its future.
struct OpenerPlace<'a> {
    streams: &'a Streams,
    number: u64,
}

impl Drop for OpenerPlace<'_> {
    fn drop(&mut self) {
        self.streams
            .with_inner(|inner| inner.openers.remove(&self.number));
    }
}

impl<C: Copy, M: Send + 'static> Drop for QuicStream<C, M> {
    fn drop(&mut self) {
        if !self.is_let_go {
            self.cut(StreamCode::RESET);
        }
        if let Some(inner) = &mut *self.world.streams.inner.borrow_mut() {
            inner.waiting.remove(&self.key);
        }
    }
}

impl<C: Copy, M: Send + 'static> fmt::Debug for QuicStream<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuicStream").field(&self.key).finish()
    }
}
