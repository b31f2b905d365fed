//! What a request asks for: `/ptth/v1/<call>/…`.

use thiserror::Error;

use super::connection_id::{ConnectionId, ConnectionIdError};
use crate::protocol::http_head::{HttpVersion, RequestHead};
use crate::protocol::ptth_name::{Name, NameError};

/// The header of the original HTTP relay, in which a key may stand; `Authorization: Bearer`
/// is as good.
const KEY_HEADER: &str = "X-ApiKey";

/// In which header a server may say whom it takes itself for, and a relay says who it is.
pub(super) const SERVER_HEADER: &str = "X-PTTH-Server";

/// One request of a proxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `listen/<port>`: a server waits for a connection to one of its ports.
    Listen {
        /// The server's own name for it.
        port: Name,
        /// Whom the server takes itself for, if it says so: only that one is let listen.
        server: Option<Name>,
    },
    /// `connect/<server>/<port>`: a client wants one. The answer's body is what the server
    /// sends.
    Connect {
        /// Whose.
        server: Name,
        /// Which.
        port: Name,
    },
    /// `accept/<id>`: the server takes it. The answer's body is what the client sends.
    Accept(ConnectionId),
    /// `reject/<id>`: the server does not.
    Reject(ConnectionId),
    /// `upstream/<id>`: its body is what the client sends.
    Upstream(ConnectionId),
    /// `downstream/<id>`: its body is what the server sends.
    Downstream(ConnectionId),
}

/// Why a request asks for nothing that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The path is another protocol's: 404.
    #[error("no path of ptth")]
    NotOurs,
    /// There is no such call: 404.
    #[error("ptth has no such call")]
    Unknown,
    /// All calls are POST; `listen` may be GET: 405.
    #[error("this call takes {allow} only")]
    WrongMethod {
        /// The methods, as the header `Allow` lists them.
        allow: &'static str,
    },
    /// The answer would stream, and HTTP/1.0 has no chunks, without which its end could not be
    /// told from one that was cut: 505.
    #[error("this call takes HTTP/1.1")]
    OldVersion,
    /// A name is none: 400.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An id is none that a relay has made, so that nobody has it: 404.
    #[error(transparent)]
    Id(#[from] ConnectionIdError),
}

impl Call {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// If there is nothing to do.
    pub fn from_head(head: &RequestHead<'_, '_>) -> Result<Self, CallError> {
        let path = head.target.split('?').next().unwrap_or_default();
        let call = path.strip_prefix("/ptth/v1/").ok_or(CallError::NotOurs)?;
        let segments: Vec<&str> = call.split('/').collect();
        let allow = match segments[0] {
            "listen" => "GET, POST",
            _ => "POST",
        };
        let call = match segments[..] {
            ["listen", port] => Self::Listen {
                port: port.parse()?,
                server: claimed_server(head)?,
            },
            ["connect", server, port] => Self::Connect {
                server: server.parse()?,
                port: port.parse()?,
            },
            ["accept", id] => Self::Accept(id.parse()?),
            ["reject", id] => Self::Reject(id.parse()?),
            ["upstream", id] => Self::Upstream(id.parse()?),
            ["downstream", id] => Self::Downstream(id.parse()?),
            _ => return Err(CallError::Unknown),
        };
        if !allow.split(", ").any(|method| method == head.method) {
            return Err(CallError::WrongMethod { allow });
        }
        match matches!(call, Self::Connect { .. } | Self::Accept(_)) {
            true if head.version == HttpVersion::Http10 => Err(CallError::OldVersion),
            _ => Ok(call),
        }
    }

    /// What its path calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "listen",
            Self::Connect { .. } => "connect",
            Self::Accept(_) => "accept",
            Self::Reject(_) => "reject",
            Self::Upstream(_) => "upstream",
            Self::Downstream(_) => "downstream",
        }
    }

    /// Whether the request's body is a stream, and not something to be read away.
    #[must_use]
    pub const fn streams(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::Downstream(_))
    }
}

/// Whom a server takes itself for. What could be nobody's name is not read as no claim.
fn claimed_server(head: &RequestHead<'_, '_>) -> Result<Option<Name>, NameError> {
    let claimed = head.headers.find(SERVER_HEADER);
    let parse = |name| {
        str::from_utf8(name)
            .map_err(|_| NameError::Letters)?
            .parse()
    };
    claimed.map(parse).transpose()
}

/// The key that a request shows in the header of the original.
#[must_use]
pub fn presented_key<'bytes>(head: &RequestHead<'bytes, '_>) -> Option<&'bytes str> {
    let value = head.headers.find(KEY_HEADER)?;
    str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{HeadPolicy, HeaderSlots};

    const ID: &str = "GAYTEMZUGU3DOOBZMFRGGZDFMY";

    fn check(line: &str, expected: &Result<Call, CallError>) {
        check_with(line, "", expected);
    }

    fn check_with(line: &str, header: &str, expected: &Result<Call, CallError>) {
        let wire = format!("{line} HTTP/1.1\r\nHost: a\r\n{header}\r\n");
        let mut slots = HeaderSlots::<4>::new();
        let head = RequestHead::decode(wire.as_bytes(), HeadPolicy::HTTP, &mut slots);
        let Ok(Progress::Complete { value, .. }) = head else {
            panic!("{line}");
        };
        assert_eq!(Call::from_head(&value), *expected, "{line}");
    }

    #[test]
    fn paths_and_methods_say_what_is_asked() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let id = ID.parse().unwrap();
        let listen = || {
            Ok(Call::Listen {
                port: name("22"),
                server: None,
            })
        };
        for (line, expected) in [
            ("POST /ptth/v1/listen/22", listen()),
            ("GET /ptth/v1/listen/22", listen()),
            ("POST /ptth/v1/listen/22?x=y", listen()),
            (
                "POST /ptth/v1/connect/home/22",
                Ok(Call::Connect {
                    server: name("home"),
                    port: name("22"),
                }),
            ),
            (&format!("POST /ptth/v1/accept/{ID}"), Ok(Call::Accept(id))),
            (&format!("POST /ptth/v1/reject/{ID}"), Ok(Call::Reject(id))),
            (
                &format!("POST /ptth/v1/upstream/{ID}"),
                Ok(Call::Upstream(id)),
            ),
            (
                &format!("POST /ptth/v1/downstream/{ID}"),
                Ok(Call::Downstream(id)),
            ),
            (
                "DELETE /ptth/v1/listen/22",
                Err(CallError::WrongMethod { allow: "GET, POST" }),
            ),
            (
                &format!("GET /ptth/v1/accept/{ID}"),
                Err(CallError::WrongMethod { allow: "POST" }),
            ),
            ("POST /ptth/v1/accept/x", Err(ConnectionIdError.into())),
            ("POST /ptth/v1/listen/..", Err(NameError::Letters.into())),
            ("POST /ptth/v1/connect/home", Err(CallError::Unknown)),
            ("POST /ptth/v1/listen/22/", Err(CallError::Unknown)),
            ("POST /ptth/v1/", Err(CallError::Unknown)),
            ("POST /ptth/v2/listen/22", Err(CallError::NotOurs)),
            ("POST /jet/create", Err(CallError::NotOurs)),
        ] {
            check(line, &expected);
        }
    }

    #[test]
    fn a_server_may_say_whom_it_takes_itself_for() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        for (header, expected) in [
            ("X-PTTH-Server: home\r\n", Ok(Some(name("home")))),
            ("x-ptth-server: lab\r\n", Ok(Some(name("lab")))),
            ("X-PTTH-Server: a b\r\n", Err(NameError::Letters)),
            ("X-PTTH-Server: \u{e4}\r\n", Err(NameError::Letters)),
            ("X-PTTH-Server:\r\n", Err(NameError::Length(0))),
        ] {
            let port = name("22");
            let expected = expected.map(|server| Call::Listen { port, server });
            check_with(
                "POST /ptth/v1/listen/22",
                header,
                &expected.map_err(CallError::from),
            );
        }
    }

    #[test]
    fn an_answer_that_streams_takes_chunks() {
        let version = |line: &str| {
            let wire = format!("{line} HTTP/1.0\r\n\r\n");
            let mut slots = HeaderSlots::<4>::new();
            match RequestHead::decode(wire.as_bytes(), HeadPolicy::HTTP, &mut slots) {
                Ok(Progress::Complete { value, .. }) => Call::from_head(&value).map(|_| ()),
                other => panic!("{other:?}"),
            }
        };
        let old = Err(CallError::OldVersion);
        assert_eq!(version("POST /ptth/v1/connect/home/22"), old);
        assert_eq!(version(&format!("POST /ptth/v1/accept/{ID}")), old);
        assert_eq!(version("POST /ptth/v1/listen/22"), Ok(()));
    }
}
