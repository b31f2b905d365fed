//! Both proxies: streams of the relay's on one side, TCP on the other.

use std::net::SocketAddr;

use anyhow::ensure;
use quinn::{Connection, RecvStream, SendStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::{QuicArgs, endpoint, pump};

/// What a proxy says first, and the relay's answer.
pub(crate) const SERVER: [u8; 1] = *b"s";
pub(crate) const CLIENT: [u8; 1] = *b"c";
/// What every stream begins with, and the answer to it.
const OPEN: [u8; 1] = *b"o";

/// The server-side proxy.
pub(crate) async fn serve(
    args: &QuicArgs,
    relay: SocketAddr,
    target: SocketAddr,
) -> anyhow::Result<()> {
    let (_endpoint, connection) = endpoint::connect(args, relay).await?;
    introduce(&connection, SERVER).await?;
    crate::say("joined the relay")?;
    let accept = async {
        loop {
            let (send, recv) = connection.accept_bi().await?;
            spawn_local(async move { dial(send, recv, target).await });
        }
    };
    LocalSet::new().run_until(accept).await
}

/// Connects a stream with the target.
async fn dial(mut send: SendStream, mut recv: RecvStream, to: SocketAddr) -> anyhow::Result<()> {
    let mut open = [0];
    recv.read_exact(&mut open).await?;
    let target = TcpStream::connect(to).await?;
    target.set_nodelay(true)?;
    send.write_all(&open).await?;
    pump::join(target, send, recv).await
}

/// The client-side proxy.
pub(crate) async fn listen(
    args: &QuicArgs,
    relay: SocketAddr,
    listen: SocketAddr,
) -> anyhow::Result<()> {
    let (_endpoint, connection) = endpoint::connect(args, relay).await?;
    introduce(&connection, CLIENT).await?;
    let listener = TcpListener::bind(listen).await?;
    crate::say(&format!("listening on {}", listener.local_addr()?))?;
    let accept = async {
        loop {
            let (local, _) = listener.accept().await?;
            let connection = connection.clone();
            spawn_local(async move { open(local, &connection).await });
        }
    };
    LocalSet::new().run_until(accept).await
}

/// Opens a stream for a connection.
async fn open(local: TcpStream, connection: &Connection) -> anyhow::Result<()> {
    local.set_nodelay(true)?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&OPEN).await?;
    let mut answer = [0];
    recv.read_exact(&mut answer).await?;
    pump::join(local, send, recv).await
}

async fn introduce(connection: &Connection, role: [u8; 1]) -> anyhow::Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&role).await?;
    send.finish()?;
    let mut answer = [0];
    recv.read_exact(&mut answer).await?;
    ensure!(answer == role, "the relay answers {answer:?}");
    Ok(())
}
