//! Signed tokens (RFC 7519) of somebody whom the operator trusts to say who may do
//! what: RS256, ES256, ES384 and EdDSA. `docs/protocols/jet.md` lists the claims.
//!
//! Left out: lists of revoked tokens.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use uuid::Uuid;

use super::keyring::{Denied, Grant, Scope};
use super::spent::{SingleUse, TokenId};

/// How far the clocks of issuer and relay may be apart.
const LEEWAY: Duration = Duration::from_secs(300);

/// Who issues tokens, by the key that checks them.
#[derive(Clone)]
pub struct Issuer {
    /// What people call it.
    pub name: String,
    /// Where its public key is.
    pub path: PathBuf,
    /// Whether a token that has a number (`jti`) serves once.
    pub single_use: bool,
    /// The public key, as its file has it.
    pem: Vec<u8>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Not a public key that checks tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key of RSA, P-256, P-384 or Ed25519 in PEM")]
pub struct IssuerError;

/// What a token says that an issuer signed.
type Opened<'issuer> = (Grant<'issuer>, Vec<Scope>);

/// The claims that mean something here.
#[derive(Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default)]
    nbf: u64,
    /// Of an association's token: `rdv`, to meet at the relay.
    jet_cm: Option<String>,
    jet_aid: Option<Uuid>,
    /// Minutes that a session may last; 0 is no limit.
    #[serde(default)]
    jet_ttl: u64,
    /// Of a scope's token.
    scope: Option<String>,
    jti: Option<String>,
}

impl Issuer {
    /// The issuer who has the other half of this key.
    ///
    /// # Errors
    ///
    /// When it is no public key.
    pub fn new(
        name: String,
        path: PathBuf,
        pem: Vec<u8>,
        single_use: bool,
    ) -> Result<Self, IssuerError> {
        use Algorithm::{ES256, ES384, EdDSA, RS256};
        let rsa = DecodingKey::from_rsa_pem(&pem).map(|key| (key, vec![RS256]));
        let (key, algorithms) = rsa
            .or_else(|_| DecodingKey::from_ec_pem(&pem).map(|key| (key, vec![ES256, ES384])))
            .or_else(|_| DecodingKey::from_ed_pem(&pem).map(|key| (key, vec![EdDSA])))
            .map_err(|_| IssuerError)?;
        Ok(Self {
            name,
            path,
            single_use,
            pem,
            key,
            algorithms,
        })
    }

    /// What a token says that this issuer signed; `None` when it did not.
    fn open(&self, token: &str, now: Duration) -> Option<Result<Opened<'_>, Denied>> {
        let header = decode_header(token).ok()?;
        if !self.algorithms.contains(&header.alg) {
            return None;
        }
        let mut validation = Validation::new(header.alg);
        // The clock is the caller's.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = match decode::<Claims>(token, &self.key, &validation) {
            Ok(data) => data.claims,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::InvalidSignature => None,
                    // Signed, and yet nothing that we know.
                    _ => Some(Err(Denied::UnknownKey)),
                };
            }
        };
        let (from, until) = (
            Duration::from_secs(claims.nbf),
            Duration::from_secs(claims.exp).saturating_add(LEEWAY),
        );
        if now > until || now.saturating_add(LEEWAY) < from {
            return Some(Err(Denied::Expired));
        }
        Some(scopes(header.cty.as_deref(), &claims).map(|scopes| {
            let jti = claims.jti.as_deref().filter(|_| self.single_use);
            let grant = Grant {
                bearer: Some(&self.name),
                association: claims.jet_aid.filter(|_| scopes == [Scope::Create]),
                session_limit: (claims.jet_ttl > 0)
                    .then(|| Duration::from_secs(claims.jet_ttl.saturating_mul(60))),
                single_use: jti.map(|jti| SingleUse {
                    id: TokenId::new(&self.name, jti),
                    until,
                }),
            };
            (grant, scopes)
        }))
    }
}

fn scopes(kind: Option<&str>, claims: &Claims) -> Result<Vec<Scope>, Denied> {
    match (kind, &claims.jet_aid, &claims.scope) {
        (Some("ASSOCIATION"), Some(_), _) if claims.jet_cm.as_deref() == Some("rdv") => {
            Ok(vec![Scope::Create])
        }
        (Some("SCOPE"), _, Some(scope)) => match scope.as_str() {
            "gateway.associations.read" | "gateway.heartbeat.read" | "gateway.sessions.read" => {
                Ok(vec![Scope::Read])
            }
            "gateway.session.terminate" => Ok(vec![Scope::Terminate]),
            "*" => Ok(vec![Scope::Create, Scope::Read, Scope::Terminate]),
            _ => Err(Denied::OutOfScope),
        },
        _ => Err(Denied::OutOfScope),
    }
}

/// Whether what a peer shows looks like a token, and not like a key.
pub(super) fn is_token(presented: &str) -> bool {
    presented.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Asks the issuers whether a token is good for `scope` at `association`, and for what
/// it is good.
pub(super) fn authorize<'issuer>(
    issuers: &'issuer [Issuer],
    token: &str,
    scope: Scope,
    association: Option<Uuid>,
    now: Duration,
) -> Result<Grant<'issuer>, Denied> {
    let opened = issuers.iter().find_map(|issuer| issuer.open(token, now));
    let (grant, scopes) = opened.ok_or(Denied::UnknownKey)??;
    if !scopes.contains(&scope) {
        return Err(Denied::OutOfScope);
    }
    match (grant.association, association) {
        (Some(granted), Some(asked)) if granted != asked => Err(Denied::OtherAssociation),
        _ => Ok(grant),
    }
}

/// By what its key's file holds.
impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.pem == other.pem && self.single_use == other.single_use
    }
}

impl Eq for Issuer {}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("name", &self.name)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use serde_json::{Value, json};

    use super::*;

    const A: Uuid = Uuid::from_u128(0x300f_1c82_d33b_11e9_bb65_2a2a_e2db_cce5);
    const NOW: u64 = 1_700_000_000;

    /// An issuer, and how it signs.
    fn issuer(algorithm: Algorithm) -> (Issuer, impl Fn(&str, &Value) -> String) {
        let kind = match algorithm {
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            _ => &PKCS_ED25519,
        };
        let key = KeyPair::generate_for(kind).unwrap();
        let issuer = Issuer::new(
            "idp".to_owned(),
            PathBuf::new(),
            key.public_key_pem().into(),
            true,
        )
        .unwrap();
        let secret = key.serialize_pem();
        let sign = move |cty: &str, claims: &Value| {
            let mut header = Header::new(algorithm);
            header.cty = Some(cty.to_owned());
            let key = match algorithm {
                Algorithm::ES256 => EncodingKey::from_ec_pem(secret.as_bytes()),
                _ => EncodingKey::from_ed_pem(secret.as_bytes()),
            };
            encode(&header, claims, &key.unwrap()).unwrap()
        };
        (issuer, sign)
    }

    fn association(exp: u64) -> Value {
        json!({"jet_cm": "rdv", "jet_aid": A, "jet_ap": "ssh", "exp": exp, "nbf": exp - 300})
    }

    #[test]
    fn a_token_is_good_for_what_it_says_and_while_it_says_so() {
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
            let (issuer, sign) = issuer(algorithm);
            let check = |token: &str, scope, at: Option<Uuid>, now: u64| {
                let issuers = std::slice::from_ref(&issuer);
                authorize(issuers, token, scope, at, Duration::from_secs(now))
                    .map(|grant| grant.association)
            };
            let token = sign("ASSOCIATION", &association(NOW));
            assert_eq!(check(&token, Scope::Create, Some(A), NOW), Ok(Some(A)));
            assert_eq!(check(&token, Scope::Create, None, NOW), Ok(Some(A)));
            let other = Some(Uuid::from_u128(1));
            assert_eq!(
                check(&token, Scope::Create, other, NOW),
                Err(Denied::OtherAssociation)
            );
            assert_eq!(
                check(&token, Scope::Read, None, NOW),
                Err(Denied::OutOfScope)
            );
            assert_eq!(
                check(&token, Scope::Create, Some(A), NOW + 300),
                Ok(Some(A))
            );
            for late in [NOW + 301, NOW + 1_000_000] {
                assert_eq!(
                    check(&token, Scope::Create, Some(A), late),
                    Err(Denied::Expired)
                );
            }
            assert_eq!(
                check(&token, Scope::Create, Some(A), NOW - 601),
                Err(Denied::Expired)
            );

            let token = sign(
                "SCOPE",
                &json!({"scope": "gateway.sessions.read", "exp": NOW}),
            );
            assert_eq!(check(&token, Scope::Read, None, NOW), Ok(None));
            assert_eq!(
                check(&token, Scope::Terminate, None, NOW),
                Err(Denied::OutOfScope)
            );
            for (cty, claims) in [
                ("SCOPE", json!({"scope": "gateway.other", "exp": NOW})),
                ("JMUX", association(NOW)),
                (
                    "ASSOCIATION",
                    json!({"jet_cm": "fwd", "jet_aid": A, "exp": NOW}),
                ),
            ] {
                let token = sign(cty, &claims);
                assert_eq!(
                    check(&token, Scope::Read, None, NOW),
                    Err(Denied::OutOfScope)
                );
            }
            let token = sign("SCOPE", &json!({"scope": "*"}));
            assert_eq!(
                check(&token, Scope::Read, None, NOW),
                Err(Denied::UnknownKey)
            );
        }
    }

    #[test]
    fn a_token_may_serve_once_and_bound_its_sessions() {
        let (mut issuer, sign) = issuer(Algorithm::EdDSA);
        fn granted<'issuer>(issuer: &'issuer Issuer, token: &str) -> Grant<'issuer> {
            let issuers = std::slice::from_ref(issuer);
            let now = Duration::from_secs(NOW);
            authorize(issuers, token, Scope::Create, Some(A), now).unwrap()
        }
        let mut claims = association(NOW + 60);
        let plain = granted(&issuer, &sign("ASSOCIATION", &claims));
        assert_eq!((plain.session_limit, plain.single_use), (None, None));
        claims["jti"] = json!("7");
        claims["jet_ttl"] = json!(5);
        let token = sign("ASSOCIATION", &claims);
        let bounded = granted(&issuer, &token);
        assert_eq!(bounded.session_limit, Some(Duration::from_secs(300)));
        let once = bounded.single_use.unwrap();
        assert_eq!(once.id, TokenId::new("idp", "7"));
        assert_eq!(once.until, Duration::from_secs(NOW + 60) + LEEWAY);
        issuer.single_use = false;
        assert_eq!(granted(&issuer, &token).single_use, None);
        claims["jet_ttl"] = json!(0);
        claims["jti"] = json!("8");
        let unbounded = granted(&issuer, &sign("ASSOCIATION", &claims));
        assert_eq!(unbounded.session_limit, None);
    }

    #[test]
    fn nobody_else_signs() {
        let (issuer, sign) = issuer(Algorithm::ES256);
        let (_, other) = self::issuer(Algorithm::ES256);
        let (_, another) = self::issuer(Algorithm::EdDSA);
        let refused = |token: &str| {
            let now = Duration::from_secs(NOW);
            let issuers = std::slice::from_ref(&issuer);
            let result = authorize(issuers, token, Scope::Create, Some(A), now);
            assert_eq!(result, Err(Denied::UnknownKey), "{token}");
        };
        let claims = association(NOW);
        refused(&other("ASSOCIATION", &claims));
        refused(&another("ASSOCIATION", &claims));
        let token = sign("ASSOCIATION", &claims);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        refused(&format!("{signed}.{}", &signature[..signature.len() - 4]));
        refused(&format!("{signed}."));
        // RFC 8725 §3.1: an algorithm is none that a token may choose.
        let secret = EncodingKey::from_secret(&issuer.pem);
        let forged = encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap();
        refused(&forged);
        let unsigned = "eyJhbGciOiJub25lIn0";
        refused(&format!(
            "{unsigned}.{}.",
            signed.split('.').nth(1).unwrap()
        ));
        refused("a.b.c");
        assert!(is_token(&token) && !is_token("midspan_abc"));
    }

    #[test]
    fn only_a_public_key_checks() {
        for pem in [
            &b""[..],
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ] {
            assert_eq!(
                Issuer::new("x".to_owned(), PathBuf::new(), pem.to_vec(), true).err(),
                Some(IssuerError)
            );
        }
    }
}
