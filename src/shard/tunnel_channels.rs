//! What clients of jProxy ask for: connections, datagrams and echoes, each on a channel of a
//! tunnel.
//!
//! Whatever is asked for, [`crate::access::egress`] says where the relay goes for whom, as it does
//! for visitors by WebSocks.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tracing::warn;

use super::errand::{Errand, log_not_reached, one_word, target};
use super::jproxy::GuestTunnel;
use super::mux::{ChannelEnd, ChannelSession};
use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::tunnel_log::RefusedChannel;
use super::user_sessions::{Beginning, UserSession};
use super::websocks::{DIAL_TIMEOUT, NotConnected};
use crate::protocol::jproxy::{BindStatus, ConnectStatus};
use crate::protocol::socks5::{Destination, Host, ReplyCode};
use crate::relay::mux::{Answer, Asked, EchoSocket, MuxEvent, NOT_TRIED_MS, Role};
use crate::runtime::clock;
use crate::runtime::connected_datagram::{ECHOES_NEED, connected, echoes};
use crate::runtime::executor::run_or_spawn;
use crate::runtime::flag::Flag;
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;
use crate::session::refused::Refused;
use crate::slab::Key;
use crate::time::Timestamp;

/// From here on up are ports that anybody on a host may have. Those below are its own: whoever
/// sends from one may be believed by others, and the relay may have the privilege.
const OWN_PORTS_END: u16 = 1024;

/// What a channel leads to, and what its client is told of that.
struct Reached {
    end: ChannelEnd,
    peer: PeerAddress,
    answer: Answer,
    session: UserSession,
}

/// That it leads nowhere.
struct NotReached {
    refused: Refused,
    answer: Answer,
}

impl RelayService {
    /// Sees to a channel.
    pub(super) fn handle_channel(self: &Rc<Self>, event: MuxEvent) {
        match event {
            MuxEvent::Asked {
                channel,
                tunnel,
                asked,
            } => {
                let is_there = self.world.muxes.carried(channel).is_some();
                let Some(guest) = self.guest_tunnels.find(tunnel).filter(|_| is_there) else {
                    return;
                };
                let given_up = Rc::new(Flag::default());
                let mut asking = self.guest_tunnels.asking.borrow_mut();
                asking.insert(channel, Rc::clone(&given_up));
                drop(asking);
                let service = Rc::clone(self);
                run_or_spawn(async move {
                    let served = service.serve_channel(channel, guest, asked);
                    given_up.or_raised(served).await;
                    service.guest_tunnels.asking.borrow_mut().remove(&channel);
                    // One that was refused may have been the last.
                    service.leave_if_gone(tunnel);
                });
            }
            MuxEvent::Ended(ended) => {
                let tunnels = &self.guest_tunnels;
                if let Some(given_up) = tunnels.asking.borrow_mut().remove(&ended.channel) {
                    given_up.raise();
                }
                let session = tunnels.sessions.borrow_mut().remove(&ended.channel);
                drop(session);
                self.leave_if_gone(ended.tunnel);
            }
            MuxEvent::TurnedAway {
                tunnel,
                asked,
                answer,
            } => {
                if let Some(guest) = self.guest_tunnels.find(tunnel) {
                    let refused = match answer == Answer::denied(asked.kind()) {
                        true => Refused::EgressDenied,
                        false if self.world.is_draining() => Refused::Draining,
                        false => Refused::TooManyChannels,
                    };
                    self.count_refused_channel(&guest, &asked, refused, answer);
                }
            }
            MuxEvent::Undecrypted { tunnel } => {
                if let Some(guest) = self.guest_tunnels.find(tunnel) {
                    self.guest_tunnels.log.doubt_key(&guest, clock::now());
                }
            }
            MuxEvent::OtherDialect { tunnel, error } => {
                if let Some(guest) = self.guest_tunnels.find(tunnel) {
                    let log = &self.guest_tunnels.log;
                    log.doubt_dialect(&guest, error, clock::now());
                }
            }
            MuxEvent::Answered { .. }
            | MuxEvent::Datagram { .. }
            | MuxEvent::Forgotten { .. }
            | MuxEvent::Lost(_) => {}
        }
    }

    async fn serve_channel(&self, channel: Key, guest: GuestTunnel, asked: Asked) {
        let since = clock::now();
        let reaching = async {
            // It counts itself.
            if self.connections() > self.settings().connections_max {
                return Err(NotReached::limit(&asked, Refused::TooManyConnections));
            }
            match &asked {
                Asked::Connect(_, destination) => {
                    self.reach_stream(&guest, destination, since).await
                }
                Asked::Associate {
                    local_port, with, ..
                } => self.associate(&guest, *local_port, with).await,
                Asked::Echoes(_, host) => self.echo(&guest, host).await,
            }
        };
        let reached = self.draining.or_raised(reaching).await;
        let reached = reached.unwrap_or_else(|| Err(NotReached::limit(&asked, Refused::Draining)));
        let Reached {
            end,
            peer,
            answer,
            session,
        } = match reached {
            Ok(reached) => reached,
            Err(NotReached { refused, answer }) => {
                self.count_refused_channel(&guest, &asked, refused, answer);
                return self.world.muxes.refuse(channel, answer);
            }
        };
        if matches!(end, ChannelEnd::Stream(_)) {
            guest.signs.is_right.set(true);
        }
        let of_channel = ChannelSession {
            role: Role::Server,
            peers: [guest.peer, peer],
            errand: Rc::new(Errand {
                user: Some(one_word(&guest.user).into()),
                target: target(&asked.destination()),
                way: None,
                command: asked.command(),
            }),
            waiting_since: since,
            joined_at: clock::now(),
        };
        // Before it can end.
        let sessions = &self.guest_tunnels.sessions;
        sessions.borrow_mut().insert(channel, session);
        let is_there = self
            .world
            .join_channel(channel, end, Some(answer), of_channel);
        if !is_there {
            let session = sessions.borrow_mut().remove(&channel);
            drop(session);
        }
    }

    /// Counts and logs what a user does not get.
    fn count_refused_channel(
        &self,
        guest: &GuestTunnel,
        asked: &Asked,
        refused: Refused,
        answer: Answer,
    ) {
        self.count_refused(guest.peer, refused);
        let channel = RefusedChannel {
            guest,
            asked,
            refused,
            answer,
            is_user: self.is_user(guest),
        };
        let log = &self.guest_tunnels.log;
        log.refuse_channel(&channel, clock::now());
    }

    async fn reach_stream(
        &self,
        guest: &GuestTunnel,
        destination: &Destination,
        since: Timestamp,
    ) -> Result<Reached, NotReached> {
        let settings = self.settings();
        let dialling = async {
            let may = self.tunnel_allowance(&settings, guest)?;
            self.dial_for(&guest.counted_as, &may, destination).await
        };
        let (stream, session): (Stream, UserSession) =
            dialling.await.map_err(NotReached::connect)?;
        let took_ms = u16::try_from(clock::now().since(since).as_millis());
        Ok(Reached {
            peer: PeerAddress::from(stream.socket().peer_address()),
            end: ChannelEnd::Stream(stream),
            answer: Answer::Connect {
                status: ConnectStatus::Connected,
                took_ms: took_ms.unwrap_or(NOT_TRIED_MS),
            },
            session,
        })
    }

    async fn associate(
        &self,
        guest: &GuestTunnel,
        local_port: u16,
        with: &Destination,
    ) -> Result<Reached, NotReached> {
        let refused = |status| Answer::Associate {
            status,
            local_port: 0,
        };
        if (1..OWN_PORTS_END).contains(&local_port) {
            return Err(NotReached {
                refused: Refused::PrivilegedPort,
                answer: refused(BindStatus::Denied),
            });
        }
        let open = |address| connected(local_port, address);
        let (socket, address, session) = self.reach_by(guest, with, refused, open).await?;
        let bound = socket.local_address().map_or(0, |address| address.port());
        Ok(Reached {
            end: ChannelEnd::Datagrams(socket),
            peer: PeerAddress::from(Some(address)),
            answer: Answer::Associate {
                status: BindStatus::Bound,
                local_port: bound,
            },
            session,
        })
    }

    async fn echo(&self, guest: &GuestTunnel, host: &Host) -> Result<Reached, NotReached> {
        if !self.settings().tunnels.icmp {
            return Err(NotReached {
                refused: Refused::CommandNotSupported,
                answer: Answer::Echoes(BindStatus::Denied),
            });
        }
        let with = Destination {
            host: host.clone(),
            port: 0,
        };
        let open = |address: SocketAddr| {
            let opened = echoes(address.ip());
            if let Err(error) = &opened
                && error.kind() == io::ErrorKind::PermissionDenied
            {
                warn!(%error, "no socket for echo requests: {ECHOES_NEED}");
            }
            opened
        };
        let (socket, address, session) = self.reach_by(guest, &with, Answer::Echoes, open).await?;
        Ok(Reached {
            end: ChannelEnd::Echoes(EchoSocket::new(socket, address.is_ipv6())),
            peer: PeerAddress::from(Some(address)),
            answer: Answer::Echoes(BindStatus::Bound),
            session,
        })
    }

    /// A socket that is connected with where a user wants datagrams to go, if it may.
    async fn reach_by(
        &self,
        guest: &GuestTunnel,
        with: &Destination,
        answer: impl Fn(BindStatus) -> Answer,
        open: impl Fn(SocketAddr) -> io::Result<Socket>,
    ) -> Result<(Socket, SocketAddr, UserSession), NotReached> {
        let not = |not: NotConnected| NotReached {
            refused: not.refused,
            answer: answer(bind_status(not.refused)),
        };
        let settings = self.settings();
        let until = self.world.reactor.now() + DIAL_TIMEOUT;
        let reached = async {
            let may = self.tunnel_allowance(&settings, guest)?;
            let session = self
                .begin_dial(&guest.counted_as, &may, Beginning::Dial)
                .await?;
            let allowed = self.allowed_addresses(&guest.counted_as, &may, with, until);
            Ok((session, allowed.await?))
        };
        let (session, allowed) = reached.await.map_err(not)?;
        // As for datagrams by WebSocks: nothing tells which of them answers.
        let preferred = allowed.iter().find(|address| address.is_ipv4());
        let Some(address) = preferred.or(allowed.first()).copied() else {
            return Err(not(Refused::NotResolved.into()));
        };
        match open(address) {
            Ok(socket) => Ok((socket, address, session)),
            Err(error) => {
                log_not_reached("no socket for datagrams", &guest.counted_as, with, &error);
                let (refused, status) = match error.kind() {
                    io::ErrorKind::AddrInUse => (Refused::ListenFailed, BindStatus::PortTaken),
                    io::ErrorKind::PermissionDenied => (Refused::ListenFailed, BindStatus::Denied),
                    _ => (Refused::NoDescriptor, BindStatus::Limit),
                };
                let answer = answer(status);
                Err(NotReached { refused, answer })
            }
        }
    }
}

impl NotReached {
    fn connect(not: NotConnected) -> Self {
        Self {
            refused: not.refused,
            answer: Answer::Connect {
                status: connect_status(&not),
                took_ms: NOT_TRIED_MS,
            },
        }
    }

    /// By the one status that says nothing of what was asked for, but of the relay.
    const fn limit(asked: &Asked, refused: Refused) -> Self {
        Self {
            refused,
            answer: Answer::limit(asked.kind()),
        }
    }
}

/// What a client is told of a connection that did not come about.
const fn connect_status(not: &NotConnected) -> ConnectStatus {
    match (not.refused, not.reply) {
        (Refused::NotResolved, ReplyCode::TtlExpired) => ConnectStatus::TimedOut,
        (Refused::NotResolved, _) => ConnectStatus::UnknownHost,
        (
            Refused::TooManyDials
            | Refused::TooManyOfUser
            | Refused::TooManyNames
            | Refused::TooManyConnections,
            _,
        ) => ConnectStatus::Limit,
        (_, ReplyCode::NotAllowed) => ConnectStatus::Denied,
        (_, ReplyCode::ConnectionRefused) => ConnectStatus::Refused,
        (_, ReplyCode::TtlExpired) => ConnectStatus::TimedOut,
        (_, ReplyCode::HostUnreachable | ReplyCode::NetworkUnreachable) => {
            ConnectStatus::Unreachable
        }
        _ => ConnectStatus::Failed,
    }
}

/// The same of datagrams.
const fn bind_status(refused: Refused) -> BindStatus {
    match refused {
        Refused::NotResolved => BindStatus::UnknownHost,
        Refused::TooManyDials
        | Refused::TooManyOfUser
        | Refused::TooManyNames
        | Refused::TooManyConnections => BindStatus::Limit,
        _ => BindStatus::Denied,
    }
}
