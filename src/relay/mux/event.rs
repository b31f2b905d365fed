//! What is asked for by way of tunnels, what becomes of it, and what is told of that.

use super::channel::Carried;
use crate::protocol::jproxy::{
    BindStatus, ChannelId, ChannelKind, ConnectStatus, FromClient, FromServer, PacketError,
};
use crate::protocol::socks5::{Destination, Host};
use crate::relay::close::{CloseReason, How};
use crate::runtime::socket::Socket;
use crate::slab::Key;

/// Where a connection took no time, or was not tried.
pub const NOT_TRIED_MS: u16 = u16::MAX;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Connect(ChannelId, Destination),
    Associate {
        id: ChannelId,
        local_port: u16,
        with: Destination,
    },
    Echoes(ChannelId, Host),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Connect { status: ConnectStatus, took_ms: u16 },
    Associate { status: BindStatus, local_port: u16 },
    Echoes(BindStatus),
}

/// What is to be seen to.
#[derive(Debug)]
pub enum MuxEvent {
    /// The client asks for something: [`super::MuxPlane::open`] or [`super::MuxPlane::refuse`].
    Asked {
        channel: Key,
        tunnel: Key,
        asked: Asked,
    },
    /// The client has asked for what there was no room for, or of a tunnel that is to end, and was
    /// told so.
    TurnedAway {
        tunnel: Key,
        asked: Asked,
        answer: Answer,
    },
    /// The first packet that came cannot be decrypted, as where the other side has another key: the
    /// tunnel ends.
    Undecrypted {
        tunnel: Key,
    },
    /// The other side speaks the other dialect: the tunnel ends.
    OtherDialect {
        tunnel: Key,
        error: PacketError,
    },
    /// The server has answered. What it has refused is gone.
    Answered {
        channel: Key,
        answer: Answer,
    },
    /// A datagram for a task.
    Datagram {
        channel: Key,
        data: Vec<u8>,
    },
    Ended(ChannelEnded),
    /// The server has ended a channel that is gone here.
    Forgotten {
        tunnel: Key,
        kind: ChannelKind,
        id: ChannelId,
    },
    Lost(TunnelLost),
}

/// A channel that is over.
#[derive(Debug)]
pub struct ChannelEnded {
    pub channel: Key,
    pub tunnel: Key,
    pub kind: ChannelKind,
    pub id: ChannelId,
    pub reason: CloseReason,
    pub bytes: Carried,
    /// Its end, and how that is to be closed; `None` where there was none.
    pub socket: Option<(Socket, How)>,
    /// Both sides have said so: its number may be used again. Never of a channel for datagrams,
    /// whose server says nothing, and of which some may be on their way.
    pub is_free: bool,
}

/// A tunnel that is over; its channels have ended before, but for those whose ends still take the
/// last of what came.
#[derive(Debug)]
pub struct TunnelLost {
    pub tunnel: Key,
    pub reason: CloseReason,
    pub socket: Socket,
    pub how: How,
}

/// What tunnels have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MuxCounts {
    pub bytes_relayed: u64,
    pub datagrams_relayed: u64,
    pub datagrams_dropped: u64,
    /// Packets that mean nothing, and were passed over.
    pub packets_ignored: u64,
    /// Channels whose ends took too little for too long.
    pub stuck: u64,
}

impl Asked {
    /// What it is asked for.
    #[must_use]
    pub const fn kind(&self) -> ChannelKind {
        match self {
            Self::Connect(..) => ChannelKind::Tcp,
            Self::Associate { .. } => ChannelKind::Udp,
            Self::Echoes(..) => ChannelKind::Icmp,
        }
    }

    /// The same in a word of the log.
    #[must_use]
    pub const fn command(&self) -> &'static str {
        match self {
            Self::Connect(..) => "connect",
            Self::Associate { .. } => "udp_associate",
            Self::Echoes(..) => "echo",
        }
    }

    /// With whom; of a host the port is 0.
    #[must_use]
    pub fn destination(&self) -> Destination {
        match self {
            Self::Connect(_, with) | Self::Associate { with, .. } => with.clone(),
            Self::Echoes(_, host) => Destination {
                host: host.clone(),
                port: 0,
            },
        }
    }

    pub(super) const fn id(&self) -> ChannelId {
        match self {
            Self::Connect(id, _) | Self::Associate { id, .. } | Self::Echoes(id, _) => *id,
        }
    }

    pub(super) fn packet(&self) -> FromClient<'static> {
        match self.clone() {
            Self::Connect(id, destination) => FromClient::Connect(id, destination),
            Self::Associate {
                id,
                local_port,
                with,
            } => FromClient::Associate {
                id,
                local_port,
                with,
            },
            Self::Echoes(id, host) => FromClient::AssociateEchoes(id, host),
        }
    }
}

impl Answer {
    pub(super) const fn packet(self, id: ChannelId) -> FromServer<'static> {
        match self {
            Self::Connect { status, took_ms } => FromServer::Connected {
                id,
                status,
                took_ms,
            },
            Self::Associate { status, local_port } => FromServer::Associated {
                id,
                status,
                local_port,
            },
            Self::Echoes(status) => FromServer::AssociatedEchoes(id, status),
        }
    }

    /// What it says, in a word of the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect { status, .. } => status.as_str(),
            Self::Associate { status, .. } | Self::Echoes(status) => status.as_str(),
        }
    }

    /// Whether what was asked for is there.
    #[must_use]
    pub fn is_granted(self) -> bool {
        match self {
            Self::Connect { status, .. } => status == ConnectStatus::Connected,
            Self::Associate { status, .. } | Self::Echoes(status) => status == BindStatus::Bound,
        }
    }

    /// That nothing of this kind came about, nor was tried.
    #[must_use]
    pub const fn refused(kind: ChannelKind, connect: ConnectStatus, bind: BindStatus) -> Self {
        match kind {
            ChannelKind::Tcp => Self::Connect {
                status: connect,
                took_ms: NOT_TRIED_MS,
            },
            ChannelKind::Udp => Self::Associate {
                status: bind,
                local_port: 0,
            },
            ChannelKind::Icmp => Self::Echoes(bind),
        }
    }

    /// That there are too many of this kind.
    #[must_use]
    pub const fn limit(kind: ChannelKind) -> Self {
        Self::refused(kind, ConnectStatus::Limit, BindStatus::Limit)
    }

    /// That nobody may have it.
    #[must_use]
    pub const fn denied(kind: ChannelKind) -> Self {
        Self::refused(kind, ConnectStatus::Denied, BindStatus::Denied)
    }

    /// That it leads nowhere.
    pub(super) const fn nowhere(kind: ChannelKind) -> Self {
        Self::refused(kind, ConnectStatus::Failed, BindStatus::UnknownHost)
    }
}
