//! A server of jProxy that answers when it is told to.

use std::io::{Read, Write};
use std::net::TcpListener;

use midspan::access::jproxy::TunnelUser;
use midspan::protocol::jproxy::{
    Dialect, FromClient, FromServer, LoginAnswer, SessionKey, encode_acceptance,
};

use super::jproxy_client::{Packets, greeting};
use crate::patience::PATIENCE;

/// One user's tunnel, in the dialect of the document.
pub(crate) struct TunnelServer {
    packets: Packets,
}

impl TunnelServer {
    /// Lets the next one in, who is to be this user.
    pub(crate) fn accept(listener: &TcpListener, user: &TunnelUser) -> Self {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut words = greeting();
        stream.read_exact(&mut words).expect("a greeting");
        assert_eq!(words, greeting());
        let mut answer = Vec::new();
        encode_acceptance(true, &mut answer);
        stream.write_all(&answer).expect("sent");
        let mut hash = [0; 32];
        stream.read_exact(&mut hash).expect("a hash");
        assert_eq!(&hash, user.hash());
        let session = SessionKey([7; 16]);
        let encrypted = user.encrypt(&session).expect("a key");
        answer.clear();
        LoginAnswer::Accepted(&encrypted).encode(&mut answer);
        stream.write_all(&answer).expect("sent");
        let packets = Packets::new(stream, &session);
        Self { packets }
    }

    pub(crate) fn say(&mut self, packet: &FromServer<'_>) {
        let mut head = Vec::new();
        let data = packet.encode_head(Dialect::Spec, &mut head);
        self.say_payload(&[&head, data].concat());
    }

    pub(crate) fn say_payload(&mut self, payload: &[u8]) {
        self.packets.say(payload);
    }

    /// The next packet.
    #[track_caller]
    pub(crate) fn heard<T>(&mut self, take: impl FnOnce(FromClient<'_>) -> T) -> T {
        let packet = self.packets.next().expect("a packet");
        take(FromClient::decode(&packet, Dialect::Spec).expect("a packet of a client's"))
    }
}
