//! `tls::Session` behind its handshake, on both sides and in both versions: its peer
//! has the keys, and follows no rule.
//!
//! The first byte says which session it is, and how the records are cut. Then come
//! records: a byte for the type and what is odd about it, one for the length, and
//! the content.

use std::sync::Arc;

use midspan::tls::Session;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::tls_forger::Forger;
use super::tls_session::{End, check};
use super::tls_sides::{Ends, SIDES, name, shake};

/// The types begin with `change_cipher_spec`: RFC 8446 §5.1.
const CONTENT_TYPE_MIN: u8 = 20;
const APPLICATION_DATA: u8 = 23;

/// Bits of a record's first byte, above those of its type.
const IS_LONG: u8 = 0x08;
const IS_SPOILED: u8 = 0x10;
const IS_BARE: u8 = 0x20;

/// How often the content of a long record comes.
const LONG: usize = 32;

pub(crate) fn run(data: &[u8]) {
    let Some((&first, script)) = data.split_first() else {
        return;
    };
    let peers = &SIDES.peers[usize::from(first >> 1 & 1)];
    let side = if first & 1 == 0 {
        shaken_server
    } else {
        shaken_client
    };
    let records = records(script);
    let step = 1 + usize::from(first >> 2);
    let heard = check(step, || {
        let (session, mut forger) = side(peers);
        let sent = records.iter().flat_map(|record| record.seal(&mut forger));
        (session, sent.collect())
    });
    let data: Vec<u8> = records.iter().flat_map(Record::data).copied().collect();
    match heard.end {
        End::Open {
            may_end_here: true, ..
        } => assert_eq!(heard.plain, data),
        // What came bare may be the header of a record that swallows others.
        End::Open { .. } | End::Closed | End::Failed(_) => {
            assert!(data.starts_with(&heard.plain));
        }
    }
}

struct Record {
    content_type: u8,
    content: Vec<u8>,
    flags: u8,
}

fn records(mut script: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let [kind, bytes, rest @ ..] = script {
        let (content, rest) = rest.split_at(rest.len().min(usize::from(*bytes)));
        let times = if kind & IS_LONG == 0 { 1 } else { LONG };
        records.push(Record {
            content_type: CONTENT_TYPE_MIN + kind % 8,
            content: content.repeat(times),
            flags: *kind,
        });
        script = rest;
    }
    records
}

impl Record {
    fn seal(&self, forger: &mut Forger) -> Vec<u8> {
        if self.flags & IS_BARE != 0 {
            return self.content.clone();
        }
        let mut sealed = forger.record(&self.content, self.content_type);
        if self.flags & IS_SPOILED != 0 {
            *sealed.last_mut().expect("a tag") ^= 1;
        }
        sealed
    }

    /// What its receiver may take for data.
    fn data(&self) -> &[u8] {
        let is_data = self.content_type == APPLICATION_DATA;
        match is_data && self.flags & (IS_BARE | IS_SPOILED) == 0 {
            true => &self.content,
            false => &[],
        }
    }
}

fn shaken_server(peers: &Ends) -> (Session, Forger) {
    let session = Session::server(Arc::clone(&SIDES.ours.server)).expect("a session");
    let peer = ClientConnection::new(Arc::clone(&peers.client), name()).expect("a peer");
    forge(session, peer.into())
}

fn shaken_client(peers: &Ends) -> (Session, Forger) {
    let config = Arc::clone(&SIDES.ours.client);
    let session = Session::client(config, name()).expect("a session");
    let peer = ServerConnection::new(Arc::clone(&peers.server)).expect("a peer");
    forge(session, peer.into())
}

/// Has both go through the handshake; the peer then leaves its keys to a forger.
fn forge(mut session: Session, mut peer: Connection) -> (Session, Forger) {
    shake(&mut session, &mut peer);
    let version = peer.protocol_version().expect("a version");
    let secrets = peer.dangerous_extract_secrets().expect("keys");
    (session, Forger::new(version, secrets.tx))
}
