//! JET over HTTP: what a request's method and path ask for. `[JET-PROTO]`
//! 2.2.2.1 and 2.2.2.3; `docs/protocols/jet.md` lists the endpoints that known
//! servers have beside the specification's.
//!
//! Left out: who may ask, and the body of a POST, which means nothing.

use thiserror::Error;
use uuid::Uuid;

use super::place::{Place, Target, Verb};
use super::refusal::RequestFault;
use crate::protocol::http_head::RequestHead;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestRequest {
    /// `GET /jet/create`: an association, of this id if the client chose one in
    /// `Jet-Association`.
    Create {
        /// `None`: the relay chooses.
        association: Option<Uuid>,
    },
    /// `POST /jet/association/<id>`: an association of this id.
    CreateAssociation(Uuid),
    /// `POST /jet/association/<id>/candidates`: routes to it.
    GatherCandidates(Uuid),
    /// `GET /jet/association/<id>`.
    ShowAssociation(Uuid),
    /// `DELETE /jet/association/<id>`.
    DeleteAssociation(Uuid),
    /// `GET /jet/association[?detail=true]`.
    ListAssociations {
        /// Candidates and bytes as well.
        with_detail: bool,
    },
    /// `GET /jet/health`: whether the relay lives.
    Health,
    /// `GET /jet/heartbeat`: the same, and how much it has to do.
    Heartbeat,
    /// `GET /jet/sessions`.
    ListSessions,
    /// `GET /jet/sessions/count`.
    CountSessions,
    /// `POST /jet/session/<id>/terminate`: end the sessions of an association.
    TerminateSession(Uuid),
    /// `GET /jet/{accept,connect,test}/<association>[/<candidate>]`: over
    /// WebSocket.
    Meet {
        /// What to do there.
        verb: Verb,
        /// Where.
        place: Place,
    },
}

/// Why a request asks for nothing that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestError {
    /// No such path: 404.
    #[error("request target is not a jet path")]
    UnknownPath,
    /// A path for other methods: 405.
    #[error("this jet path takes {allow} only")]
    WrongMethod {
        /// The methods, as the header `Allow` lists them.
        allow: &'static str,
    },
    /// An id that is not a UUID: 400.
    #[error("an id in the request is not a uuid")]
    BadId,
}

impl RestRequest {
    /// The association that is asked about, if it is one.
    #[must_use]
    pub const fn association(self) -> Option<Uuid> {
        match self {
            Self::Create { association } => association,
            Self::CreateAssociation(id)
            | Self::GatherCandidates(id)
            | Self::ShowAssociation(id)
            | Self::DeleteAssociation(id)
            | Self::TerminateSession(id) => Some(id),
            Self::Meet { place, .. } => Some(place.association),
            Self::ListAssociations { .. }
            | Self::Health
            | Self::Heartbeat
            | Self::ListSessions
            | Self::CountSessions => None,
        }
    }

    /// Reads a request. The letters of a path may have any case, and one slash may
    /// follow it.
    ///
    /// # Errors
    /// If there is nothing to do.
    pub fn from_head(head: &RequestHead<'_, '_>) -> Result<Self, RestError> {
        let target = origin_form(head.target).ok_or(RestError::UnknownPath)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let lower = path.to_ascii_lowercase();
        let path = lower.strip_suffix('/').unwrap_or(&lower);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let only = |allow| match head.method == allow {
            true => Ok(()),
            false => Err(RestError::WrongMethod { allow }),
        };
        match segments[..] {
            ["jet", "create"] => {
                only("GET")?;
                let association = head.headers.find("Jet-Association");
                let association = association.map(parse_id_bytes).transpose()?;
                Ok(Self::Create { association })
            }
            ["jet", "association"] => {
                only("GET")?;
                let with_detail = query.split('&').any(|pair| pair == "detail=true");
                Ok(Self::ListAssociations { with_detail })
            }
            ["jet", "association", id] => match head.method {
                "GET" => parse_id(id).map(Self::ShowAssociation),
                "POST" => parse_id(id).map(Self::CreateAssociation),
                "DELETE" => parse_id(id).map(Self::DeleteAssociation),
                _ => Err(RestError::WrongMethod {
                    allow: "GET, POST, DELETE",
                }),
            },
            ["jet", "association", id, "candidates"] => {
                only("POST")?;
                parse_id(id).map(Self::GatherCandidates)
            }
            ["jet", "health"] | ["health"] => only("GET").map(|()| Self::Health),
            ["jet", "heartbeat"] => only("GET").map(|()| Self::Heartbeat),
            ["jet", "sessions"] | ["sessions"] => only("GET").map(|()| Self::ListSessions),
            ["jet", "sessions", "count"] | ["sessions", "count"] => {
                only("GET").map(|()| Self::CountSessions)
            }
            ["jet", "session", id, "terminate"] => {
                only("POST")?;
                parse_id(id).map(Self::TerminateSession)
            }
            _ => match Target::parse(target) {
                Ok(Target::Verb { verb, ids }) => {
                    only("GET")?;
                    let place = ids.parse().map_err(|_| RestError::BadId)?;
                    Ok(Self::Meet { verb, place })
                }
                Ok(Target::Root) | Err(RequestFault::BadPath) => Err(RestError::UnknownPath),
                Err(_) => Err(RestError::BadId),
            },
        }
    }
}

/// The path and query of a target in origin form or absolute form: RFC 9112 §3.2.
fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    let is_http = ["http", "https"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    let path = rest.find('/').map(|at| &rest[at..])?;
    is_http.then_some(path)
}

fn parse_id(id: &str) -> Result<Uuid, RestError> {
    Uuid::try_parse(id).map_err(|_| RestError::BadId)
}

fn parse_id_bytes(id: &[u8]) -> Result<Uuid, RestError> {
    Uuid::try_parse_ascii(id).map_err(|_| RestError::BadId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Progress;
    use crate::protocol::http_head::{HeadPolicy, HeaderSlots};

    const A: Uuid = Uuid::from_u128(0x300f_1c82_d33b_11e9_bb65_2a2a_e2db_cce5);
    const C: Uuid = Uuid::from_u128(0x4c8f_409a_c1a2_4cae_bda2_84c5_90fe_d618);

    #[track_caller]
    fn check(line: &str, header: &str, expected: Result<RestRequest, RestError>) {
        let text = format!("{line} HTTP/1.1\r\n{header}\r\n");
        let mut slots = HeaderSlots::<4>::new();
        match RequestHead::decode(text.as_bytes(), HeadPolicy::HTTP, &mut slots) {
            Ok(Progress::Complete { value, .. }) => {
                assert_eq!(RestRequest::from_head(&value), expected, "{line}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_endpoint_is_known_by_method_and_path() {
        use RestRequest::{
            CountSessions, Create, CreateAssociation, DeleteAssociation, GatherCandidates, Health,
            Heartbeat, ListAssociations, ListSessions, Meet, ShowAssociation, TerminateSession,
        };
        let a = A.hyphenated();
        let meet = |verb, candidate| {
            let association = A;
            let place = Place {
                association,
                candidate,
            };
            Ok(Meet { verb, place })
        };
        for (line, expected) in [
            ("GET /jet/create", Create { association: None }),
            ("GET /jet/create/", Create { association: None }),
            ("GET /Jet/Create?token=x", Create { association: None }),
            (
                "GET /jet/association",
                ListAssociations { with_detail: false },
            ),
            (
                "GET /jet/association?x=y&detail=true",
                ListAssociations { with_detail: true },
            ),
            ("GET /jet/health", Health),
            ("GET http://relay:80/jet/health", Health),
            ("GET HTTPS://relay/health?x", Health),
            ("GET /health", Health),
            ("GET /jet/heartbeat", Heartbeat),
            ("GET /jet/sessions", ListSessions),
            ("GET /sessions", ListSessions),
            ("GET /sessions/count", CountSessions),
            (&format!("POST /jet/association/{a}"), CreateAssociation(A)),
            (&format!("GET /jet/association/{a:X}"), ShowAssociation(A)),
            (
                &format!("DELETE /jet/association/{a}"),
                DeleteAssociation(A),
            ),
            (
                &format!("POST /jet/association/{a}/candidates"),
                GatherCandidates(A),
            ),
            (
                &format!("POST /jet/session/{a}/terminate"),
                TerminateSession(A),
            ),
        ] {
            check(line, "", Ok(expected));
        }
        check(
            "GET /jet/create",
            &format!("Jet-Association: {a}\r\n"),
            Ok(Create {
                association: Some(A),
            }),
        );
        check(
            &format!("GET /jet/accept/{a}"),
            "",
            meet(Verb::Accept, None),
        );
        check(
            &format!("GET /jet/connect/{a}/{}", C.hyphenated()),
            "",
            meet(Verb::Connect, Some(C)),
        );
        check(
            &format!("GET /JET/TEST/{a}/{}/", C.hyphenated()),
            "",
            meet(Verb::Test, Some(C)),
        );
    }

    #[test]
    fn anything_else_is_refused_as_what_it_is() {
        use RestError::{BadId, UnknownPath, WrongMethod};
        let a = A.hyphenated();
        for (line, expected) in [
            ("GET /", UnknownPath),
            ("GET /jet", UnknownPath),
            ("GET /jet/", UnknownPath),
            ("GET /jetcreate", UnknownPath),
            ("GET /favicon.ico", UnknownPath),
            ("GET x/jet/create", UnknownPath),
            ("GET http:/jet/create", UnknownPath),
            ("GET ftp://relay/jet/create", UnknownPath),
            ("GET http://relay", UnknownPath),
            ("OPTIONS *", UnknownPath),
            ("GET /create", UnknownPath),
            (
                &format!("POST /jet/association/{a}/candidates//x"),
                UnknownPath,
            ),
            ("GET /jet/create/x", UnknownPath),
            ("GET /jet/health/x/y/z", UnknownPath),
            (&format!("POST /jet/association/{a}/x"), UnknownPath),
            ("POST /jet/create", WrongMethod { allow: "GET" }),
            ("HEAD /jet/health", WrongMethod { allow: "GET" }),
            ("get /jet/health", WrongMethod { allow: "GET" }),
            (
                &format!("PUT /jet/association/{a}"),
                WrongMethod {
                    allow: "GET, POST, DELETE",
                },
            ),
            (
                &format!("GET /jet/association/{a}/candidates"),
                WrongMethod { allow: "POST" },
            ),
            (
                &format!("POST /jet/accept/{a}"),
                WrongMethod { allow: "GET" },
            ),
            ("GET /jet/association/x", BadId),
            ("POST /jet/association/x/candidates", BadId),
            ("POST /jet/session/x/terminate", BadId),
            ("GET /jet/accept/x", BadId),
        ] {
            check(line, "", Err(expected));
        }
        check("GET /jet/create", "Jet-Association: x\r\n", Err(BadId));
    }
}
