//! The request with which a client asks to come in: `[WEBSOCKS]`, "Client Upgrade" and
//! "Authorization header".

use std::fmt;

use crate::protocol::http_head::RequestHead;
use crate::protocol::websocket::{Upgrade, UpgradeError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The sub-protocol of the document.
pub const PLAIN_PROTOCOL: &str = "socks5";

/// Ours, in which everything stays framed, for gateways that look.
pub const FRAMED_PROTOCOL: &str = "socks5.framed";

/// The key of RFC 6455's example. The agent of the document's author sends no other.
const SAMPLE_KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

/// How SOCKS5 is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubProtocol {
    /// Raw, behind ten bytes.
    Plain,
    /// In binary messages.
    Framed,
}

/// A client that asks to come in.
#[derive(Clone, PartialEq, Eq)]
pub struct Knock {
    /// Who it says that it is, and how it proves that; `None` where it says nothing of the
    /// kind.
    pub credentials: Option<(String, String)>,
    /// What it can speak, of what we can.
    pub protocol: Option<SubProtocol>,
    /// Whether it is the agent of the document's author, which takes what comes in one
    /// read with SOCKS5's reply for a part of that.
    pub reads_replies_alone: bool,
    /// The answer that lets it in.
    response: String,
}

impl SubProtocol {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => PLAIN_PROTOCOL,
            Self::Framed => FRAMED_PROTOCOL,
        }
    }
}

impl Knock {
    /// Reads it from a request, whose path is not looked at. Of what is `spoken` here, the
    /// dearest first, it chooses.
    ///
    /// # Errors
    ///
    /// When it asks for no upgrade that there is.
    pub fn from_head(
        head: &RequestHead<'_, '_>,
        spoken: &[SubProtocol],
    ) -> Result<Self, UpgradeError> {
        let upgrade = Upgrade::of_any_version(head)?;
        let offered = |protocol: SubProtocol| {
            let name = protocol.as_str();
            head.headers
                .tokens("Sec-WebSocket-Protocol")
                .any(|offer| offer == name)
        };
        let protocol = spoken.iter().copied().find(|protocol| offered(*protocol));
        Ok(Self {
            credentials: credentials(head),
            protocol,
            reads_replies_alone: upgrade.key() == SAMPLE_KEY,
            response: upgrade.response(protocol.map(SubProtocol::as_str)),
        })
    }

    /// The answer that lets it in.
    #[must_use]
    pub fn response(&self) -> &str {
        &self.response
    }
}

/// Without the proof.
impl fmt::Debug for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Knock")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// The value of a client's header `Authorization`: RFC 7617 §2. `hash` is base64.
#[must_use]
pub fn authorization(user: &str, hash: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{hash}")))
}

/// User and hash. A hash is base64 and holds no colon, so that a user may.
fn credentials(head: &RequestHead<'_, '_>) -> Option<(String, String)> {
    let value = head.headers.find_only("Authorization").ok().flatten()?;
    let (scheme, encoded) = str::from_utf8(value).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim_matches(' ')).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, hash) = decoded.rsplit_once(':')?;
    Some((user.to_owned(), hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{HeadPolicy, HeaderSlots};

    fn knock(text: &str) -> Result<Knock, UpgradeError> {
        let mut slots = HeaderSlots::<16>::new();
        match RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => {
                Knock::from_head(&value, &[SubProtocol::Framed, SubProtocol::Plain])
            }
            other => panic!("{other:?}"),
        }
    }

    /// The document's example.
    const EXAMPLE: &str = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Host: myexample.com\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: socks5\r\n\
         Authorization: Basic \
         YWxpY2U6RTRqNkg5QVN3S0dWZ2tpTmNSajQ3Q0dmUkRsdjF2WW9vRHhFc0ZQRW9EVT0=\r\n\r\n";

    #[test]
    fn the_documents_example_is_understood() {
        let knock = knock(EXAMPLE).expect("a knock");
        let (user, hash) = knock.credentials.clone().expect("credentials");
        assert_eq!(user, "alice");
        assert_eq!(hash, "E4j6H9ASwKGVgkiNcRj47CGfRDlv1vYooDxEsFPEoDU=");
        assert!(EXAMPLE.contains(&authorization(&user, &hash)));
        assert_eq!(knock.protocol, Some(SubProtocol::Plain));
        assert!(knock.reads_replies_alone);
        assert_eq!(
            knock.response(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: socks5\r\n\r\n"
        );
        assert!(!format!("{knock:?}").contains("E4j6"));
    }

    #[test]
    fn what_clients_vary_is_taken() {
        let with = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            knock(&EXAMPLE.replace(from, to)).map(|knock| knock.protocol)
        };
        let plain = Ok(Some(SubProtocol::Plain));
        assert_eq!(with("Upgrade: websocket", "Upgrade: WebSocket"), plain);
        assert_eq!(
            with("Connection: Upgrade", "Connection: keep-alive, upgrade"),
            plain
        );
        assert_eq!(with("Host: myexample.com", "Host: null"), plain);
        assert_eq!(with("Sec-WebSocket-Version: 13\r\n", ""), plain);
        assert_eq!(with("GET / ", "GET /foo/bar?x=1 "), plain);
        let protocols = |to: &str| with("Sec-WebSocket-Protocol: socks5", to);
        assert_eq!(protocols("Sec-WebSocket-Protocol: chat, socks5"), plain);
        assert_eq!(
            protocols("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: socks5"),
            plain
        );
        assert_eq!(
            protocols("Sec-WebSocket-Protocol: socks5\r\nSec-WebSocket-Protocol: socks5.framed"),
            Ok(Some(SubProtocol::Framed))
        );
        assert_eq!(protocols("Sec-WebSocket-Protocol: chat"), Ok(None));
        assert_eq!(protocols("X: y"), Ok(None));
        for (from, to, error) in [
            ("GET /", "POST /", UpgradeError::NotAsked),
            ("Upgrade: websocket\r\n", "", UpgradeError::NotAsked),
            (
                "Version: 13",
                "Version: 8",
                UpgradeError::UnsupportedVersion,
            ),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", UpgradeError::NoKey),
        ] {
            assert_eq!(with(from, to), Err(error));
        }
    }

    #[test]
    fn credentials_are_basic_and_end_in_a_hash() {
        let check = |value: &str, expected: Option<(&str, &str)>| {
            let (start, _) = EXAMPLE.split_once("Authorization").expect("a header");
            let knock = knock(&format!("{start}{value}\r\n")).expect("a knock");
            let expected = expected.map(|(user, hash)| (user.to_owned(), hash.to_owned()));
            assert_eq!(knock.credentials, expected, "{value}");
        };
        check("Authorization: Basic YTpi\r\n", Some(("a", "b")));
        check("authorization: basic  YTpi\r\n", Some(("a", "b")));
        check("Authorization: Basic YTpiOmM=\r\n", Some(("a:b", "c")));
        check("Authorization: Basic OmI=\r\n", Some(("", "b")));
        check("", None);
        check("Authorization: Bearer YTpi\r\n", None);
        check("Authorization: Basic\r\n", None);
        check("Authorization: Basic YWI=\r\n", None);
        check("Authorization: Basic !\r\n", None);
        check(
            "Authorization: Basic YTpi\r\nAuthorization: Basic YTpj\r\n",
            None,
        );
    }
}
