//! Peers, each named for its misbehaviour, and what is misused or misbehaves between them.

pub(crate) mod dribbles;
pub(crate) mod floods;
pub(crate) mod half_closes;
pub(crate) mod jproxy_client;
pub(crate) mod jproxy_server;
pub(crate) mod quic_initial;
pub(crate) mod quic_peer;
pub(crate) mod resets;
pub(crate) mod stalls;
pub(crate) mod udp_link;
