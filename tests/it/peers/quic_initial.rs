//! Whoever sends no more than the first packet of a QUIC connection, of a length of his choice
//! (RFC 9000 §14.1, RFC 9001 §5.2).

use midspan::protocol::ptth_quic::ALPN;
use midspan::tls::client::{Trust, quic_client_config};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{ClientConnection, Version};
use rustls::{Side, pki_types::ServerName};

/// A packet's number, in bytes.
const NUMBER_BYTES: usize = 2;
/// What seals a packet, in bytes.
const TAG_BYTES: usize = 16;
/// Where the header's mask is from, behind the start of the number (RFC 9001 §5.4.2).
const SAMPLE_AFTER: usize = 4;
/// The transport parameter `initial_source_connection_id` (RFC 9000 §18.2).
const SOURCE_ID: u8 = 0x0f;

/// An Initial packet with a whole ClientHello, in a datagram of so many bytes.
pub(crate) fn initial(pin: &str, ids: [[u8; 8]; 2], datagram_bytes: usize) -> Vec<u8> {
    let [destination, source] = ids;
    let mut datagram = vec![0xc1, 0, 0, 0, 1];
    for id in ids {
        datagram.push(8);
        datagram.extend_from_slice(&id);
    }
    datagram.push(0);
    let rest = datagram_bytes - datagram.len() - 2;
    datagram.extend_from_slice(&long_number(rest));
    let number_at = datagram.len();
    datagram.extend_from_slice(&[0; NUMBER_BYTES]);

    let mut frames = crypto_frame(&client_hello(pin, source));
    // The frame PADDING is a zero.
    frames.resize(rest - NUMBER_BYTES - TAG_BYTES, 0);
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("of TLS 1.3");
    let suite = suite.quic_suite().expect("for QUIC");
    let keys = suite.keys(&destination, Side::Client, Version::V1).local;
    let tag = keys.packet.encrypt_in_place(0, &datagram, &mut frames);
    datagram.extend_from_slice(&frames);
    datagram.extend_from_slice(tag.expect("sealed").as_ref());

    let sample_at = number_at + SAMPLE_AFTER;
    let sample = datagram[sample_at..sample_at + keys.header.sample_len()].to_vec();
    let (first, others) = datagram.split_at_mut(1);
    let number = &mut others[number_at - 1..][..NUMBER_BYTES];
    let masked = keys.header.encrypt_in_place(&sample, &mut first[0], number);
    masked.expect("masked");
    assert_eq!(datagram.len(), datagram_bytes);
    datagram
}

fn client_hello(pin: &str, source: [u8; 8]) -> Vec<u8> {
    let trust = Trust::Pinned(pin.parse().expect("a fingerprint"));
    let config = quic_client_config(trust, ALPN, None).expect("TLS 1.3");
    let parameters = [&[SOURCE_ID, 8][..], &source].concat();
    let name = ServerName::try_from("relay").expect("a name");
    let client = ClientConnection::new(config, Version::V1, name, parameters);
    let mut hello = Vec::new();
    let keys = client.expect("a client").write_hs(&mut hello);
    assert!(keys.is_none(), "there are none before an answer");
    hello
}

fn crypto_frame(bytes: &[u8]) -> Vec<u8> {
    const CRYPTO: u8 = 6;
    let length = long_number(bytes.len());
    [&[CRYPTO, 0][..], &length, bytes].concat()
}

/// A number below 2^14, in two bytes (RFC 9000 §16).
fn long_number(number: usize) -> [u8; 2] {
    let number = u16::try_from(number).expect("a datagram's length");
    (number | 0x4000).to_be_bytes()
}
