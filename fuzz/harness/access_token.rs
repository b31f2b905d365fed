//! `access::Keyring`: a token grants what its claims say and no more, and only when
//! its issuer signed it.
//!
//! The first byte says who signs; behind it stand the header, to the end of the line,
//! and the claims. Without a signer it is all one token.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use midspan::access::{Denied, Issuer, Keyring, Presented, Scope};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

const NOW: u64 = 1_700_000_000;
/// Seconds that clocks may be apart.
const LEEWAY: u64 = 300;

/// Associations that are asked about.
const ONE: Uuid = Uuid::from_u128(0x300f_1c82_d33b_11e9_bb65_2a2a_e2db_cce5);
const OTHER: Uuid = Uuid::from_u128(1);

pub(crate) fn run(data: &[u8]) {
    let Some((&first, text)) = data.split_first() else {
        return;
    };
    let signed = KEYS.sign(first, text);
    let presented = match &signed {
        Some(signed) => Presented::new(signed.token.as_str()),
        None => Presented::new(String::from_utf8_lossy(text)),
    };
    for scope in [Scope::Create, Scope::Read, Scope::Terminate] {
        for asked in [None, Some(ONE), Some(OTHER)] {
            let now = Duration::from_secs(NOW);
            let answer = KEYS.ring.authorize(Some(&presented), scope, asked, now);
            match &signed {
                Some(signed) if signed.by_issuer => {
                    if let Ok(granted) = answer {
                        assert_eq!(granted.bearer, Some("idp"));
                        let granted = granted.association;
                        signed.check(scope, granted);
                        assert!(granted.is_none() || asked.is_none() || granted == asked);
                    }
                }
                _ => assert_eq!(answer, Err(Denied::UnknownKey)),
            }
        }
    }
}

/// Whoever signs, and the ring that knows two of them.
struct Keys {
    ring: Keyring,
    issuers: [(Algorithm, EncodingKey); 2],
    strangers: [(Algorithm, EncodingKey); 3],
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let pair = |kind| KeyPair::generate_for(kind).expect("a key");
    let ec_key = |pair: &KeyPair| EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes());
    let ed_key = |pair: &KeyPair| EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes());
    let [ec, other_ec] = [(); 2].map(|()| pair(&PKCS_ECDSA_P256_SHA256));
    let [ed, other_ed] = [(); 2].map(|()| pair(&PKCS_ED25519));
    let issuer = |pair: &KeyPair| {
        let pem = pair.public_key_pem().into_bytes();
        Issuer::new("idp".to_owned(), PathBuf::new(), pem, true).expect("a public key")
    };
    Keys {
        ring: Keyring::new(Vec::new(), vec![issuer(&ec), issuer(&ed)]),
        issuers: [
            (Algorithm::ES256, ec_key(&ec).expect("a key")),
            (Algorithm::EdDSA, ed_key(&ed).expect("a key")),
        ],
        strangers: [
            (Algorithm::ES256, ec_key(&other_ec).expect("a key")),
            (Algorithm::EdDSA, ed_key(&other_ed).expect("a key")),
            // RFC 8725 §2.1: what everybody knows of an issuer, taken for a secret.
            (
                Algorithm::HS256,
                EncodingKey::from_secret(ec.public_key_pem().as_bytes()),
            ),
        ],
    }
});

struct Signed<'a> {
    token: String,
    by_issuer: bool,
    algorithm: Algorithm,
    header: &'a [u8],
    claims: &'a [u8],
}

impl Keys {
    /// `None` when nobody signs.
    fn sign<'a>(&self, signer: u8, text: &'a [u8]) -> Option<Signed<'a>> {
        let signer = usize::from(signer) % 6;
        let mut signers = self.issuers.iter().chain(&self.strangers);
        let (algorithm, key) = signers.nth(signer)?;
        let cut = text.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let (header, claims) = text.split_at(cut);
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = sign(message.as_bytes(), key, *algorithm).expect("a signature");
        Some(Signed {
            token: format!("{message}.{signature}"),
            by_issuer: signer < 2,
            algorithm: *algorithm,
            header,
            claims,
        })
    }
}

impl Signed<'_> {
    /// Checks that it says what was granted.
    fn check(&self, scope: Scope, association: Option<Uuid>) {
        let header: Header = serde_json::from_slice(self.header).expect("a header");
        assert_eq!(header.alg, format!("{:?}", self.algorithm));
        let claims: Claims = serde_json::from_slice(self.claims).expect("claims");
        let is_granted = claims.grant(&header.cty, scope, association);
        assert!(is_granted, "{header:?} {claims:?}");
    }
}

/// What a token says, as anybody reads it.
#[derive(Debug, Deserialize)]
struct Header {
    alg: Value,
    #[serde(default)]
    cty: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Claims {
    exp: Value,
    nbf: Value,
    jet_cm: Value,
    jet_aid: Value,
    scope: Value,
}

impl Claims {
    /// Whether, as this kind of token, they are good for `scope` now, and for this
    /// association or any.
    fn grant(&self, kind: &Value, scope: Scope, association: Option<Uuid>) -> bool {
        let until = self.exp.as_u64().expect("an end");
        let from = self.nbf.as_u64().unwrap_or(0);
        let is_now = NOW <= until.saturating_add(LEEWAY) && from <= NOW + LEEWAY;
        let is_good = match (kind.as_str(), association) {
            (Some("ASSOCIATION"), Some(association)) => {
                let named = self.jet_aid.as_str().map(Uuid::parse_str);
                scope == Scope::Create && self.jet_cm == "rdv" && named == Some(Ok(association))
            }
            (Some("SCOPE"), None) => match self.scope.as_str() {
                Some("*") => true,
                Some("gateway.session.terminate") => scope == Scope::Terminate,
                Some(name) => scope == Scope::Read && name.ends_with(".read"),
                None => false,
            },
            _ => false,
        };
        is_now && is_good
    }
}
