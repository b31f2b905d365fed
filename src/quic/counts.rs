//! What the driver of one shard has counted.

/// Counts since the shard began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that came, whoever sent them.
    pub datagrams_received: u64,
    /// Calls that brought them.
    pub batches_received: u64,
    /// Datagrams that left.
    pub datagrams_sent: u64,
    /// Calls that sent them.
    pub batches_sent: u64,
    /// Calls that found no room in the socket's buffer.
    pub sends_blocked: u64,
    /// Errors of sockets: a datagram that could not be sent, or news of one that was not
    /// delivered. What it held is sent again.
    pub socket_errors: u64,
    /// Datagrams that were for no connection and began none.
    pub unroutable: u64,
    /// Clients that were asked to prove their address first.
    pub retries: u64,
    /// Datagrams that other shards took in for this one.
    pub strays_taken: u64,
    /// Packets that were declared lost.
    pub packets_lost: u64,
    /// How often a connection was told to send less, as packets were lost or marked.
    pub congestion_events: u64,
}
