//! The relay: whoever has connected last is the server or the client, as it says.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, bail};
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::task::{LocalSet, spawn_local};

use crate::proxies::{CLIENT, SERVER};
use crate::{QuicArgs, endpoint, pump};

type Server = Rc<RefCell<Option<Connection>>>;

pub(crate) async fn run(args: &QuicArgs, listen: SocketAddr) -> anyhow::Result<()> {
    LocalSet::new().run_until(accept(args, listen)).await
}

async fn accept(args: &QuicArgs, listen: SocketAddr) -> anyhow::Result<()> {
    let endpoint = endpoint::server(args, listen)?;
    crate::say(&format!("listening on {}", endpoint.local_addr()?))?;
    let server = Server::default();
    while let Some(incoming) = endpoint.accept().await {
        let server = Rc::clone(&server);
        spawn_local(async move {
            if let Err(error) = admit(incoming, &server).await {
                let _ = crate::say(&format!("a proxy has gone: {error:#}"));
            }
        });
    }
    Ok(())
}

/// Hears who it is, and does what it asks for until it is gone.
async fn admit(incoming: Incoming, server: &Server) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let (mut answer, mut hello) = connection.accept_bi().await?;
    let mut role = [0];
    hello.read_exact(&mut role).await?;
    if role == SERVER {
        server.replace(Some(connection.clone()));
    }
    answer.write_all(&role).await?;
    answer.finish()?;
    match role {
        SERVER => {
            connection.closed().await;
            Ok(())
        }
        CLIENT => loop {
            let near = connection.accept_bi().await?;
            let server = Rc::clone(server);
            // One that fails resets its streams, as they are dropped.
            spawn_local(async move { join(near, &server).await });
        },
        _ => bail!("nobody's hello: {role:?}"),
    }
}

/// Passes an open and its answer on, and joins both streams.
async fn join(near: (SendStream, RecvStream), server: &Server) -> anyhow::Result<()> {
    let (mut near_send, mut near_recv) = near;
    let mut open = [0];
    near_recv.read_exact(&mut open).await?;
    let server = server.borrow().clone();
    let server = server.context("no server is there")?;
    let (mut far_send, mut far_recv) = server.open_bi().await?;
    far_send.write_all(&open).await?;
    let mut answer = [0];
    far_recv.read_exact(&mut answer).await?;
    near_send.write_all(&answer).await?;
    tokio::try_join!(
        pump::stream_to_stream(near_recv, far_send),
        pump::stream_to_stream(far_recv, near_send),
    )?;
    Ok(())
}
