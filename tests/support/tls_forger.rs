//! A peer of TLS whose records we make ourselves, so that they are sealed as they
//! should be and say what no implementation would.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

/// Bytes that AES-GCM adds behind what it seals.
const TAG_BYTES: usize = 16;

/// One side's keys, after a handshake that a real peer went through.
pub(crate) struct Forger {
    version: ProtocolVersion,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    /// One that goes on where the peer with these secrets, for what it sends, stopped.
    pub(crate) fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Self {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => panic!("another suite was agreed on"),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).expect("a key of its length");
        Self {
            version,
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().expect("a nonce's length"),
            sequence,
        }
    }

    /// A record with this content of this type.
    pub(crate) fn record(&mut self, content: &[u8], content_type: u8) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        match self.version {
            ProtocolVersion::TLSv1_2 => self.record_of_tls12(content, content_type, sequence),
            _ => self.record_of_tls13(content, content_type, sequence),
        }
    }

    /// RFC 5288 §3: a part of the nonce is sent along.
    fn record_of_tls12(&self, content: &[u8], content_type: u8, sequence: [u8; 8]) -> Vec<u8> {
        let mut nonce = self.iv;
        nonce[4..].copy_from_slice(&sequence);
        let aad = [&sequence[..], &header(content_type, content.len())].concat();
        let sealed = self.seal(nonce, &aad, content.to_vec());
        let header = header(content_type, sequence.len() + sealed.len());
        [&header[..], &sequence, &sealed].concat()
    }

    /// RFC 8446 §5.2: the type is sealed too.
    fn record_of_tls13(&self, content: &[u8], content_type: u8, sequence: [u8; 8]) -> Vec<u8> {
        const APPLICATION_DATA: u8 = 23;
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(sequence) {
            *byte ^= count;
        }
        let inner = [content, &[content_type]].concat();
        let header = header(APPLICATION_DATA, inner.len() + TAG_BYTES);
        [&header[..], &self.seal(nonce, &header, inner)].concat()
    }

    fn seal(&self, nonce: [u8; 12], aad: &[u8], mut plain: Vec<u8>) -> Vec<u8> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(aad), &mut plain)
            .expect("few bytes");
        plain
    }
}

fn header(content_type: u8, bytes: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(bytes).expect("few bytes").to_be_bytes();
    [content_type, 3, 3, high, low]
}
