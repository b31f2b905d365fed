//! The relays of WebSocks by which connections go out: of those that can be had, the first is
//! asked.

use std::net::SocketAddr;
use std::rc::Rc;

use tracing::debug;

use super::entrance::{ASK_TIMEOUT, AskError, Inquiry};
use super::pool::{Leave, Pool, Used};
use super::refusal::Refusal;
use super::{NOWHERE, SocksWorld, WebsocksOptions};
use crate::access::PasswordDigest;
use crate::protocol::socks5::{Reply, ReplyCode, Request};
use crate::runtime::executor::spawn;
use crate::runtime::flag::Flag;
use crate::session::refused::Refused;
use crate::shard::status::RelayStatus;
use crate::time::Timestamp;

/// One shard's ways into all of them, those first that are preferred.
#[derive(Debug)]
pub(super) struct Pools {
    world: Rc<SocksWorld>,
    /// At least one.
    pools: Vec<Rc<Pool>>,
}

/// What a relay has said, and the way there.
type Asked = Result<(Inquiry, Reply), AskError>;

/// What a relay has done for a client.
pub(super) struct Granted<'a> {
    pub(super) inquiry: Inquiry,
    /// The end that its reply names.
    pub(super) bound: SocketAddr,
    pub(super) pool: &'a Pool,
}

impl Pools {
    pub(super) fn new(
        world: &Rc<SocksWorld>,
        options: WebsocksOptions,
        password: &PasswordDigest,
        stop: &Rc<Flag>,
    ) -> Self {
        let WebsocksOptions {
            gateways,
            protocol,
            pool_size,
        } = options;
        let pool = |gateway| {
            let (world, stop) = (Rc::clone(world), Rc::clone(stop));
            let gateway = (gateway, password.clone());
            Pool::new(world, gateway, protocol, pool_size, stop)
        };
        Self {
            world: Rc::clone(world),
            pools: gateways.into_iter().map(pool).collect(),
        }
    }

    /// Starts keeping ways out ready.
    pub(super) fn start(&self) {
        for pool in &self.pools {
            spawn(Rc::clone(pool).keep());
        }
    }

    /// Goes in by another password from now on.
    pub(super) fn renew_password(&self, password: &PasswordDigest) {
        for pool in &self.pools {
            pool.renew_password(password);
        }
    }

    /// Closes the ways that are ready.
    pub(super) fn empty(&self) {
        for pool in &self.pools {
            pool.empty();
        }
    }

    /// How the relays are, for operators.
    pub(super) fn statuses(&self) -> Vec<RelayStatus> {
        self.pools.iter().map(|pool| pool.status()).collect()
    }

    /// Has the first relay that can be had do what is asked.
    pub(super) async fn ask(&self, request: &Request) -> Result<Granted<'_>, Refusal> {
        let until = self.world.reactor.now() + ASK_TIMEOUT;
        let mut refusal = Refusal::no_relay();
        for pool in &self.pools {
            let asked = match self.world.reactor.now() < until {
                true => ask_at(pool, request, until).await,
                // Nobody knows whether this one can be had.
                false => Err(AskError::OutOfTime),
            };
            match asked {
                Ok((inquiry, reply)) => {
                    return Ok(Granted {
                        inquiry,
                        bound: accepted(pool, &reply)?,
                        pool,
                    });
                }
                Err(error) => {
                    debug!(relay = %pool.gateway(), %error, "no way out here");
                    // It is that there is no relay only where none can be reached.
                    if refusal.refused == Refused::NoRelay {
                        refusal = error.refusal(pool.gateway().authority());
                    }
                }
            }
        }
        Err(refusal)
    }
}

/// Asks by a way that was ready, and where that turns out to be dead, by a fresh one; where
/// there is none to be had, by the others that are ready. Nothing of the client's was sent by
/// then.
async fn ask_at(pool: &Rc<Pool>, request: &Request, until: Timestamp) -> Asked {
    let mut no_fresh = match pool.begin_ask().map_err(AskError::Resting)? {
        Leave::Any => None,
        Leave::ReadyOnly(trouble) => Some(AskError::Resting(trouble)),
    };
    loop {
        if let Some(ready) = pool.take() {
            match ready.ask(pool.world(), request, until).await {
                Err(AskError::Dead) => {}
                asked => return told(pool, Used::Ready, asked),
            }
        } else if let Some(error) = no_fresh {
            return Err(error);
        }
        if no_fresh.is_none() {
            match pool.open(until).await {
                Ok(fresh) => {
                    let asked = fresh.ask(pool.world(), request, until).await;
                    return told(pool, Used::Fresh, asked);
                }
                Err(error) => no_fresh = Some(error),
            }
        }
    }
}

/// Tells the pool whether its relay replies.
fn told(pool: &Pool, used: Used, asked: Asked) -> Asked {
    match &asked {
        Ok(_) => pool.handle_reply(used),
        Err(error) => pool.handle_failure(error),
    }
    asked
}

/// The end that a reply names, unless it says no.
pub(super) fn accepted(pool: &Pool, reply: &Reply) -> Result<SocketAddr, Refusal> {
    match reply.code {
        ReplyCode::Succeeded => Ok(reply.bound.address().unwrap_or(NOWHERE)),
        code => Err(Refusal::by_relay(pool.gateway().authority(), code)),
    }
}
