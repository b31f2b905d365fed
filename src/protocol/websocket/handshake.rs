//! The opening handshake, both sides: RFC 6455 §4.
//!
//! Left out: extensions. None is offered, and what a client offers is declined by
//! silence (§9.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use thiserror::Error;

use crate::protocol::http_head::{HttpVersion, RequestHead, ResponseHead};

/// §1.3: what a server adds to the key, to show that it means WebSocket.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The one version that there is: §4.1.
pub const VERSION: &str = "13";

/// A client's wish to speak WebSocket on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade<'bytes> {
    key: &'bytes [u8],
    /// The first sub-protocol on offer: §11.3.4.
    pub protocol: Option<&'bytes str>,
}

/// Why a request does not lead to a WebSocket connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UpgradeError {
    /// A request as any other, or one of a client that has forgotten to say what
    /// it wants.
    #[error("the request asks for no upgrade to websocket")]
    NotAsked,
    /// A version that we do not speak: §4.4.
    #[error("header Sec-WebSocket-Version is not {VERSION}")]
    UnsupportedVersion,
    /// Without a key there is nothing to answer.
    #[error("header Sec-WebSocket-Key is missing, or there twice")]
    NoKey,
}

impl<'bytes> Upgrade<'bytes> {
    /// Reads the wish from a request. Its path is not looked at, and the key is
    /// taken as it is: known clients send some that are not sixteen bytes.
    ///
    /// # Errors
    /// If the request cannot be answered with 101.
    pub fn from_head(head: &RequestHead<'_, 'bytes>) -> Result<Self, UpgradeError> {
        match head.headers.find("Sec-WebSocket-Version") {
            Some(_) => Self::of_any_version(head),
            None => Self::of_any_version(head).and(Err(UpgradeError::UnsupportedVersion)),
        }
    }

    /// As [`Self::from_head`], from a client that need not say which version it speaks.
    ///
    /// # Errors
    /// If the request cannot be answered with 101.
    pub fn of_any_version(head: &RequestHead<'_, 'bytes>) -> Result<Self, UpgradeError> {
        let headers = head.headers;
        if head.method != "GET"
            || head.version != HttpVersion::Http11
            || !headers.has_token("Upgrade", "websocket")
            || !headers.has_token("Connection", "upgrade")
        {
            return Err(UpgradeError::NotAsked);
        }
        match headers.find_only("Sec-WebSocket-Version") {
            Ok(None) => {}
            Ok(Some(version)) if version == VERSION.as_bytes() => {}
            Ok(Some(_)) | Err(_) => return Err(UpgradeError::UnsupportedVersion),
        }
        let key = match headers.find_only("Sec-WebSocket-Key") {
            Ok(Some(key)) if !key.is_empty() => key,
            _ => return Err(UpgradeError::NoKey),
        };
        let protocol = headers.tokens("Sec-WebSocket-Protocol").next();
        Ok(Self { key, protocol })
    }

    /// As the client sent it.
    #[must_use]
    pub const fn key(&self) -> &'bytes [u8] {
        self.key
    }

    /// The head that turns the connection into a WebSocket one. `protocol` is the
    /// sub-protocol that was chosen, if any.
    #[must_use]
    pub fn response(&self, protocol: Option<&str>) -> String {
        let accept = accept_of(self.key);
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n"
        );
        if let Some(protocol) = protocol {
            head.push_str("Sec-WebSocket-Protocol: ");
            head.push_str(protocol);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

/// What a client sends to open a WebSocket connection, and has to remember.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: String,
    protocols: &'static [&'static str],
}

/// Why a server's answer does not open the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// It refuses.
    #[error("the server answers {status} instead of 101")]
    Refused {
        /// What it says.
        status: u16,
    },
    /// It does not confirm the upgrade.
    #[error("the server's answer upgrades to something other than websocket")]
    NotWebSocket,
    /// It did not read our key: most likely an old answer from a cache.
    #[error("header Sec-WebSocket-Accept does not answer our key")]
    WrongAccept,
    /// It chose what we have not offered.
    #[error("the server chose a sub-protocol or an extension that was not offered")]
    NotOffered,
}

impl ClientHandshake {
    /// A handshake with sixteen bytes that nobody can guess (§4.1), that offers these
    /// sub-protocols, the dearest first.
    #[must_use]
    pub fn new(random: [u8; 16], protocols: &'static [&'static str]) -> Self {
        Self {
            key: STANDARD.encode(random),
            protocols,
        }
    }

    /// The request. `host` and `target` are what the URL says, and hold neither
    /// white space nor line ends; `headers` come last. Each sub-protocol has a header of
    /// its own, since known servers do not take lists.
    #[must_use]
    pub fn request(&self, host: &str, target: &str, headers: &[(&str, &str)]) -> String {
        let key = &self.key;
        let mut head = format!(
            "GET {target} HTTP/1.1\r\n\
             Host: {host}\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Version: {VERSION}\r\n"
        );
        let offer = |name: &&'static str| ("Sec-WebSocket-Protocol", *name);
        let offers = self.protocols.iter().map(offer);
        for (name, value) in offers.chain(headers.iter().copied()) {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head
    }

    /// Whether the answer opens the connection; gives the sub-protocol that was chosen.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(
        &self,
        answer: &ResponseHead<'_, '_>,
    ) -> Result<Option<&'static str>, AnswerError> {
        let headers = answer.headers;
        if answer.status != 101 {
            return Err(AnswerError::Refused {
                status: answer.status,
            });
        }
        if !headers.has_token("Upgrade", "websocket") || !headers.has_token("Connection", "upgrade")
        {
            return Err(AnswerError::NotWebSocket);
        }
        let expected = accept_of(self.key.as_bytes());
        if headers.find_only("Sec-WebSocket-Accept") != Ok(Some(expected.as_bytes())) {
            return Err(AnswerError::WrongAccept);
        }
        if headers.find("Sec-WebSocket-Extensions").is_some() {
            return Err(AnswerError::NotOffered);
        }
        match headers.find_only("Sec-WebSocket-Protocol") {
            Ok(None) => Ok(None),
            Ok(Some(chosen)) => {
                let mut offered = self.protocols.iter().copied();
                let is_chosen = |name: &&str| name.as_bytes() == chosen;
                let chosen = offered.find(is_chosen);
                chosen.map(Some).ok_or(AnswerError::NotOffered)
            }
            Err(_) => Err(AnswerError::NotOffered),
        }
    }
}

/// §4.2.2: what shows that the key was read.
fn accept_of(key: &[u8]) -> String {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{HeadPolicy, HeaderSlots};

    const SAMPLE: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n\
         Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn upgrade<T>(text: &str, look: impl FnOnce(Result<Upgrade<'_>, UpgradeError>) -> T) -> T {
        let mut slots = HeaderSlots::<16>::new();
        match RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => look(Upgrade::from_head(&value)),
            other => panic!("{other:?}"),
        }
    }

    fn check_answer(
        handshake: &ClientHandshake,
        text: &str,
    ) -> Result<Option<&'static str>, AnswerError> {
        let mut slots = HeaderSlots::<16>::new();
        match ResponseHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => handshake.check(&value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_specifications_example_is_answered_as_it_says() {
        // RFC 6455 §1.2 and §1.3.
        upgrade(SAMPLE, |upgrade| {
            let upgrade = upgrade.unwrap();
            assert_eq!(upgrade.protocol, Some("chat"));
            assert_eq!(
                upgrade.response(upgrade.protocol),
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                 Sec-WebSocket-Protocol: chat\r\n\r\n"
            );
            assert!(!upgrade.response(None).contains("Protocol:"));
        });
    }

    #[test]
    fn a_request_has_to_ask_for_it() {
        let with = |from: &str, to: &str| {
            assert!(SAMPLE.contains(from));
            upgrade(&SAMPLE.replace(from, to), |upgrade| upgrade.map(|_| ()))
        };
        let without_version = SAMPLE.replace("Sec-WebSocket-Version: 13\r\n", "");
        let mut slots = HeaderSlots::<16>::new();
        let head = RequestHead::decode(without_version.as_bytes(), HeadPolicy::HTTP, &mut slots);
        let Ok(Progress::Complete { value, .. }) = head else {
            panic!("{head:?}");
        };
        assert!(Upgrade::of_any_version(&value).is_ok());
        assert_eq!(with("Upgrade: websocket", "Upgrade: WebSocket"), Ok(()));
        assert_eq!(
            with("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
            Ok(())
        );
        // One that is not sixteen bytes, as a known specification shows it.
        assert_eq!(
            with("dGhlIHNhbXBsZSBub25jZQ==", "B0mBaSTOZiC2RAkp3ScC8MA/gaI="),
            Ok(())
        );
        for (from, to, error) in [
            ("GET /chat", "POST /chat", UpgradeError::NotAsked),
            ("HTTP/1.1", "HTTP/1.0", UpgradeError::NotAsked),
            ("Upgrade: websocket\r\n", "", UpgradeError::NotAsked),
            ("Upgrade: websocket", "Upgrade: h2c", UpgradeError::NotAsked),
            ("Connection: Upgrade\r\n", "", UpgradeError::NotAsked),
            (
                "Version: 13",
                "Version: 8",
                UpgradeError::UnsupportedVersion,
            ),
            (
                "Sec-WebSocket-Version: 13\r\n",
                "",
                UpgradeError::UnsupportedVersion,
            ),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", UpgradeError::NoKey),
            ("Origin:", "Sec-WebSocket-Key:", UpgradeError::NoKey),
        ] {
            assert_eq!(with(from, to), Err(error), "{from:?} as {to:?}");
        }
    }

    #[test]
    fn our_request_is_answered_and_our_answer_is_taken() {
        let handshake = ClientHandshake::new([7; 16], &["better", "binary"]);
        let request = handshake.request("relay.example:443", "/jet", &[("X-Name", "value")]);
        assert!(request.ends_with("X-Name: value\r\n\r\n"));
        let answer = upgrade(&request, |upgrade| {
            let upgrade = upgrade.unwrap();
            assert_eq!(upgrade.protocol, Some("better"));
            upgrade.response(Some("binary"))
        });
        assert_eq!(check_answer(&handshake, &answer), Ok(Some("binary")));

        let with = |from: &str, to: &str| {
            assert!(answer.contains(from));
            check_answer(&handshake, &answer.replace(from, to))
        };
        assert_eq!(with("Sec-WebSocket-Protocol: binary\r\n", ""), Ok(None));
        for (from, to, error) in [
            (
                "101 Switching Protocols",
                "403 Forbidden",
                AnswerError::Refused { status: 403 },
            ),
            (
                "Upgrade: websocket",
                "Upgrade: h2c",
                AnswerError::NotWebSocket,
            ),
            ("Connection: Upgrade\r\n", "", AnswerError::NotWebSocket),
            ("Accept: ", "Accept: x", AnswerError::WrongAccept),
            (
                "Protocol: binary",
                "Protocol: other",
                AnswerError::NotOffered,
            ),
            (
                "Sec-WebSocket-Protocol: binary",
                "Sec-WebSocket-Extensions: permessage-deflate",
                AnswerError::NotOffered,
            ),
        ] {
            assert_eq!(with(from, to), Err(error), "{from:?} as {to:?}");
        }
    }
}
