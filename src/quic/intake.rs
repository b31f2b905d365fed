//! What comes by a shard's sockets: to connections, to other shards, or to nobody yet.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{DatagramEvent, Incoming, Transmit};

use super::connection_id;
use super::driver::{Driver, QuicEvent};
use super::port::Batch;
use crate::time::Timestamp;

/// Batches that a port reads in one turn.
const BATCHES_MAX: usize = 4;
/// Bytes after which it reads none more: what one turn works on stays in the core's cache.
const TURN_BYTES: usize = 256 << 10;
/// Answers that one endpoint keeps while its socket has no room; more are lost, as they might
/// be on their way.
const ANSWERS_MAX: usize = 64;

/// What is to become of somebody who wants to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Accept,
    /// He is to prove his address, which costs him a round trip and us nothing.
    Retry,
    /// He is told that he may not.
    Refuse,
}

/// A datagram that came to a shard other than its connection's.
#[derive(Debug)]
pub struct Stray {
    /// The shard that it is for.
    pub shard: u16,
    port: usize,
    peer: SocketAddr,
    to: Option<std::net::IpAddr>,
    ecn: Option<quinn_proto::EcnCodepoint>,
    bytes: BytesMut,
}

impl Driver {
    /// Takes in what has come, within limits; `admit` decides about those who want to connect,
    /// by their address, whether they have proved it, and how many connections there are.
    pub fn receive(
        &mut self,
        now: Timestamp,
        mut admit: impl FnMut(SocketAddr, bool, usize) -> Admission,
    ) {
        let now = self.epoch.instant(now);
        for index in 0..self.endpoints.len() {
            let mut bytes_taken = 0;
            for _ in 0..BATCHES_MAX {
                if !self.endpoints[index].port.is_readable || bytes_taken >= TURN_BYTES {
                    break;
                }
                let mut batch = self.batch.take().unwrap_or_else(|| Box::new(Batch::new()));
                let count = self.endpoints[index]
                    .port
                    .receive(&mut batch, &mut self.counts);
                for buffer in 0..count {
                    let (meta, bytes) = batch.received(buffer);
                    bytes_taken += bytes.len();
                    let ecn = meta
                        .ecn
                        .and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
                    let mut rest = BytesMut::from(bytes);
                    while !rest.is_empty() {
                        let datagram = rest.split_to(meta.stride.min(rest.len()));
                        let stray = Stray {
                            shard: self.shard,
                            port: index,
                            peer: meta.addr,
                            to: meta.dst_ip,
                            ecn,
                            bytes: datagram,
                        };
                        self.counts.datagrams_received += 1;
                        match self.owner_of(&stray.bytes) {
                            Some(shard) if shard != self.shard => {
                                self.strays.push(Stray { shard, ..stray });
                            }
                            _ => self.take_datagram(stray, now, &mut admit),
                        }
                    }
                }
                self.batch = Some(batch);
            }
        }
        self.settle();
    }

    /// Datagrams that are for other shards.
    pub fn take_strays(&mut self) -> Vec<Stray> {
        std::mem::take(&mut self.strays)
    }

    /// Takes in datagrams that came to another shard.
    pub fn handle_strays(&mut self, strays: Vec<Stray>, now: Timestamp) {
        let now = self.epoch.instant(now);
        for stray in strays {
            self.counts.strays_taken += 1;
            if stray.port < self.endpoints.len() {
                // It is for a connection that there is, or was.
                self.take_datagram(stray, now, &mut |_, _, _| Admission::Refuse);
            }
        }
        self.settle();
    }

    fn owner_of(&self, datagram: &[u8]) -> Option<u16> {
        if self.shards == 1 {
            return None;
        }
        self.ids.shard_of(connection_id::destination(datagram)?)
    }

    fn take_datagram(
        &mut self,
        datagram: Stray,
        now: Instant,
        admit: &mut impl FnMut(SocketAddr, bool, usize) -> Admission,
    ) {
        let Stray {
            port,
            peer,
            to,
            ecn,
            bytes,
            ..
        } = datagram;
        let endpoint = &mut self.endpoints[port];
        self.burst.clear();
        match endpoint
            .proto
            .handle(now, peer, to, ecn, bytes, &mut self.burst)
        {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(key) = endpoint.by_handle.get(&handle).copied()
                    && let Some(connection) = self.connections.get_mut(key)
                {
                    connection.heard(self.epoch.timestamp(now));
                    connection.proto.handle_event(event);
                    self.mark_dirty(key);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let is_validated = incoming.remote_address_validated();
                let admission = admit(peer, is_validated, self.connections.len());
                self.answer_incoming(port, incoming, admission, now);
            }
            Some(DatagramEvent::Response(transmit)) => self.answer(port, transmit),
            None => self.counts.unroutable += 1,
        }
    }

    fn answer_incoming(
        &mut self,
        port: usize,
        incoming: Incoming,
        admission: Admission,
        now: Instant,
    ) {
        let proto = &mut self.endpoints[port].proto;
        let peer = incoming.remote_address();
        self.burst.clear();
        match admission {
            Admission::Accept => match proto.accept(incoming, now, &mut self.burst, None) {
                Ok((handle, connection)) => {
                    let key = self.take_in(port, handle, connection, now);
                    if let Some(connection) = self.connections.get_mut(key) {
                        connection.handshake_until = self.handshake_timeout.map(|it| now + it);
                    }
                }
                Err(error) => {
                    self.events
                        .push_back(QuicEvent::NotBegun(peer, error.cause));
                    if let Some(transmit) = error.response {
                        self.answer(port, transmit);
                    }
                }
            },
            Admission::Retry => match proto.retry(incoming, &mut self.burst) {
                Ok(transmit) => {
                    self.counts.retries += 1;
                    self.answer(port, transmit);
                }
                // He did so already.
                Err(error) => {
                    let incoming = error.into_incoming();
                    self.answer_incoming(port, incoming, Admission::Accept, now);
                }
            },
            Admission::Refuse => {
                let transmit = proto.refuse(incoming, &mut self.burst);
                self.answer(port, transmit);
            }
        }
    }

    /// Sends what an endpoint has put into the burst's room.
    fn answer(&mut self, port: usize, transmit: Transmit) {
        let endpoint = &mut self.endpoints[port];
        if !endpoint.port.is_blocked() {
            return endpoint.port.send(transmit, &self.burst, &mut self.counts);
        }
        if endpoint.answers.len() < ANSWERS_MAX {
            endpoint.answers.push_back((transmit, self.burst.clone()));
        }
    }
}
