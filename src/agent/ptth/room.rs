//! Room for connections: whether a proxy may have another one.

use tracing::warn;

use super::tunnel::TunnelWorld;
use crate::session::refused::Refused;

/// How many descriptors one shard of a proxy may have, and how many each connection takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    connections_max: usize,
    each: usize,
}

impl Room {
    /// A tunnel takes two of the local connection, and one of each request.
    pub(super) const fn for_tunnels(connections_max: usize) -> Self {
        Self {
            connections_max,
            each: 4,
        }
    }

    /// Of what goes by a stream the local connection takes one.
    pub(super) const fn for_streams(connections_max: usize) -> Self {
        Self {
            connections_max,
            each: 1,
        }
    }

    /// Whether there is room for one more, beside `coming` that are not whole yet. Where there is
    /// none, it is counted and told.
    pub(super) fn is_left<M: Send + 'static>(self, world: &TunnelWorld<M>, coming: usize) -> bool {
        let Self {
            connections_max,
            each,
        } = self;
        let is_left = world.reactor.watched() + each * (coming + 1) <= connections_max;
        if !is_left {
            world.count_refused(Refused::TooManyConnections);
            warn!(connections_max, "connection rejected: too many connections");
        }
        is_left
    }
}
