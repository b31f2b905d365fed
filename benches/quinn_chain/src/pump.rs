//! Bytes from one end to the other. One that fails drops its streams, which resets them.

use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes that are moved at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Joins a connection with a stream, until both directions have ended.
pub(crate) async fn join(
    socket: TcpStream,
    send: SendStream,
    recv: RecvStream,
) -> anyhow::Result<()> {
    let (read, write) = socket.into_split();
    tokio::try_join!(socket_to_stream(read, send), stream_to_socket(recv, write))?;
    Ok(())
}

/// One direction between two streams.
pub(crate) async fn stream_to_stream(
    mut from: RecvStream,
    mut to: SendStream,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(count) = from.read(&mut buffer).await? {
        to.write_all(&buffer[..count]).await?;
    }
    to.finish()?;
    Ok(())
}

async fn socket_to_stream(mut from: OwnedReadHalf, mut to: SendStream) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count]).await?;
    }
    to.finish()?;
    Ok(())
}

async fn stream_to_socket(mut from: RecvStream, mut to: OwnedWriteHalf) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(count) = from.read(&mut buffer).await? {
        to.write_all(&buffer[..count]).await?;
    }
    to.shutdown().await?;
    Ok(())
}
