//! Sessions against each other, and against a client that follows no rule.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, ServerConfig, SupportedProtocolVersion,
};

use self::any_certificate::AnyCertificate;
use self::tls_forger::Forger;
use super::identity::Identity;
use super::records::{SEALED_BYTES_MIN, SealError, Session, Wire};
use super::server::{ClientCertificates, Tickets, server_config};

#[path = "../../tests/support/any_certificate.rs"]
mod any_certificate;
#[path = "../../tests/support/tls_forger.rs"]
mod tls_forger;

fn server() -> Arc<ServerConfig> {
    let pem = Identity::make_pem("relay.example").unwrap();
    let identity = Identity::parse(pem.as_bytes(), Path::new("made")).unwrap();
    let tickets = Tickets::new().unwrap();
    server_config(vec![identity], &ClientCertificates::NotAsked, tickets).unwrap()
}

fn client(version: &'static SupportedProtocolVersion) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("relay.example").unwrap()
}

/// Opens all of `sealed`, `asked` bytes at a time.
fn open_all(session: &mut Session, mut sealed: &[u8], asked: usize) -> (Vec<u8>, bool) {
    let mut buffer = vec![0; SEALED_BYTES_MIN + asked];
    let mut plain = vec![0; buffer.len()];
    let (mut opened, mut is_end) = (Vec::new(), false);
    while !sealed.is_empty() {
        let landing = session.lead_in(&mut buffer, asked);
        let count = landing.len().min(sealed.len());
        buffer[landing.start..landing.start + count].copy_from_slice(&sealed[..count]);
        sealed = &sealed[count..];
        let outcome = session
            .open(&mut buffer[..landing.start + count], &mut plain)
            .unwrap();
        opened.extend_from_slice(&plain[..outcome.bytes]);
        is_end = outcome.is_end;
    }
    (opened, is_end)
}

fn words(session: &mut Session) -> Vec<u8> {
    let mut wire = Wire::default();
    session.take_words(&mut wire);
    wire.as_bytes().to_vec()
}

fn seal(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut wire = Wire::default();
    session.seal(plain, &mut wire).unwrap();
    wire.as_bytes().to_vec()
}

fn shaken(version: &'static SupportedProtocolVersion) -> (Session, Session) {
    let mut server = Session::server(server()).unwrap();
    let config = Arc::new(client(version));
    let mut client = Session::client(config, name()).unwrap();
    client.open(&mut [], &mut []).unwrap();
    let mut turns = 0;
    while client.is_handshaking() || server.is_handshaking() || client.has_words() {
        let flight = words(&mut client);
        open_all(&mut server, &flight, 100);
        let flight = words(&mut server);
        open_all(&mut client, &flight, 100);
        turns += 1;
        assert!(turns < 10, "they never agree");
    }
    (client, server)
}

#[test]
fn what_is_sealed_is_opened_however_it_is_cut() {
    let mut random = fastrand::Rng::with_seed(3);
    for version in [&TLS12, &TLS13] {
        let (mut client, mut server) = shaken(version);
        for asked in [64, 5_000, 64 << 10] {
            for bytes in [0, 1, 100, 16 << 10, (16 << 10) + 1, 200_000] {
                let plain: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
                let sealed = seal(&mut client, &plain);
                assert_eq!(
                    open_all(&mut server, &sealed, asked),
                    (plain.clone(), false)
                );
                assert!(server.may_end_here());
                let sealed = seal(&mut server, &plain);
                assert_eq!(open_all(&mut client, &sealed, asked), (plain, false));
            }
        }
        let sealed = seal(&mut client, b"the last");
        let mut wire = Wire::default();
        client.close(&mut wire).unwrap();
        let sealed = [&sealed, wire.as_bytes()].concat();
        assert_eq!(
            open_all(&mut server, &sealed, 64),
            (b"the last".to_vec(), true)
        );
        // The other direction stays.
        let sealed = seal(&mut server, b"an answer");
        assert_eq!(open_all(&mut client, &sealed, 64).0, b"an answer");
    }
}

#[test]
fn a_stream_in_bulk_is_read_to_the_end_of_a_record() {
    let (mut client, mut server) = shaken(&TLS13);
    let sealed = seal(&mut client, &[7; 1 << 20]);
    let mut buffer = vec![0; SEALED_BYTES_MIN + (64 << 10)];
    let mut plain = vec![0; buffer.len()];
    let (mut rest, mut left_over) = (&sealed[..], 0);
    while !rest.is_empty() {
        let landing = server.lead_in(&mut buffer, 64 << 10);
        left_over += landing.start;
        let count = landing.len().min(rest.len());
        buffer[landing.start..landing.start + count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        server
            .open(&mut buffer[..landing.start + count], &mut plain)
            .unwrap();
    }
    // Of the first read alone, when nobody knew yet.
    assert!(left_over < 32 << 10, "{left_over} bytes were copied");
}

#[test]
fn nothing_is_sealed_before_the_handshake_or_after_a_failure() {
    let mut session = Session::server(server()).unwrap();
    let mut wire = Wire::default();
    assert_eq!(session.seal(b"x", &mut wire), Err(SealError::NotOpen));
    let (mut client, mut server) = shaken(&TLS13);
    let mut sealed = seal(&mut client, b"hello");
    sealed[7] ^= 1;
    let mut plain = vec![0; sealed.len()];
    server.open(&mut sealed, &mut plain).unwrap_err();
    assert!(!words(&mut server).is_empty(), "an alert");
    assert_eq!(server.seal(b"x", &mut wire), Err(SealError::NotOpen));
    assert_eq!(server.close(&mut wire), Ok(()));
}

/// A server whose client followed the rules until it had keys, and what then has them.
fn forger() -> (Forger, Session) {
    let mut config = client(&TLS13);
    config.enable_secret_extraction = true;
    let mut client = ClientConnection::new(Arc::new(config), name()).unwrap();
    let mut server = Session::server(server()).unwrap();
    while client.is_handshaking() || client.wants_write() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        open_all(&mut server, &flight, 4096);
        let flight = words(&mut server);
        client.read_tls(&mut &flight[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    let secrets = client.dangerous_extract_secrets().unwrap().tx;
    (Forger::new(ProtocolVersion::TLSv1_3, secrets), server)
}

const HANDSHAKE: u8 = 22;

/// RFC 8446 §4.6.3, which asks for an answer.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

#[test]
fn a_key_update_is_answered_before_what_is_sealed_next() {
    let (mut forger, mut server) = forger();
    let record = forger.record(&KEY_UPDATE, HANDSHAKE);
    assert_eq!(open_all(&mut server, &record, 64), (vec![], false));
    let sealed = seal(&mut server, b"data");
    // Two records: the answer, and the data.
    let first = 5 + usize::from(u16::from_be_bytes([sealed[3], sealed[4]]));
    assert!(first < sealed.len());
}

#[test]
fn a_message_that_is_cut_disturbs_nothing_that_is_sealed() {
    for cut in 1..KEY_UPDATE.len() {
        let (mut forger, mut server) = forger();
        let (begin, end) = KEY_UPDATE.split_at(cut);
        let record = forger.record(begin, HANDSHAKE);
        assert_eq!(open_all(&mut server, &record, 64), (vec![], false));
        assert!(!server.may_end_here());
        seal(&mut server, b"data");
        let record = forger.record(end, HANDSHAKE);
        assert_eq!(open_all(&mut server, &record, 64), (vec![], false));
        assert!(server.may_end_here());
        seal(&mut server, b"more data");
    }
}

#[test]
fn what_comes_in_the_midst_of_a_message_ends_the_connection() {
    let (mut forger, mut server) = forger();
    let mut wire = forger.record(&KEY_UPDATE[..2], HANDSHAKE);
    wire.extend(forger.record(b"application data", 23));
    let mut plain = vec![0; wire.len()];
    server.open(&mut wire, &mut plain).unwrap_err();
    let mut words = Wire::default();
    assert_eq!(server.seal(b"x", &mut words), Err(SealError::NotOpen));
}

#[test]
fn a_message_in_ever_more_pieces_is_given_up() {
    let mut server = Session::server(server()).unwrap();
    // A hello of 64 KiB less one, a byte a record.
    let mut wire = vec![0x16, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    let mut fed = 0;
    loop {
        let mut sealed = server.take_begun();
        sealed.extend_from_slice(&wire);
        let mut plain = vec![0; sealed.len()];
        if server.open(&mut sealed, &mut plain).is_err() {
            break;
        }
        fed += wire.len();
        assert!(fed < 200 << 10, "{fed} bytes are kept");
        wire = [0x16, 3, 1, 0, 1, 0].repeat(512);
    }
    server.open(&mut [], &mut []).unwrap_err();
}

#[test]
fn a_connection_that_has_failed_is_asked_for_nothing() {
    let (mut forger, mut server) = forger();
    let mut wire = forger.record(&KEY_UPDATE[..2], HANDSHAKE);
    wire.extend(forger.record(b"application data", 23));
    let mut plain = vec![0; wire.len()];
    server.open(&mut wire, &mut plain).unwrap_err();
    server.open(&mut [0x17], &mut plain).unwrap_err();
}
