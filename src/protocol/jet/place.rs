//! Request targets: `/`, and `/jet/<verb>/<association>[/<candidate>]`.
//!
//! Left out: the query. Clients may send one (`?token=…`); on this protocol it
//! means nothing and is ignored.

use uuid::Uuid;

use super::message::PacketWriter;
use super::refusal::RequestFault;

/// The place in a path where two peers meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The association.
    pub association: Uuid,
    /// One of its candidates. A path with one id, and the form of version 1,
    /// name none: the association's implicit candidate is meant.
    pub candidate: Option<Uuid>,
}

/// A request target, split.
pub(super) enum Target<'head> {
    /// `/`: the headers say what is asked.
    Root,
    /// `/jet/<verb>/…`.
    Verb { verb: Verb, ids: Ids<'head> },
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To wait for a connector.
    Accept,
    /// To be joined with an acceptor that waits.
    Connect,
    /// Whether the place exists.
    Test,
}

/// The ids of a path, not looked at yet.
pub(super) struct Ids<'head> {
    association: &'head str,
    candidate: Option<&'head str>,
}

impl<'head> Target<'head> {
    /// The letters of a path may have any case, and one slash may follow it.
    pub(super) fn parse(target: &'head str) -> Result<Self, RequestFault> {
        let path = target.split_once('?').map_or(target, |(path, _query)| path);
        if path == "/" {
            return Ok(Self::Root);
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut segments = path.split('/');
        let (Some(""), Some(jet), Some(verb), Some(association)) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(RequestFault::BadPath);
        };
        let candidate = segments.next();
        if !jet.eq_ignore_ascii_case("jet") || segments.next().is_some() {
            return Err(RequestFault::BadPath);
        }
        let verb = [Verb::Accept, Verb::Connect, Verb::Test]
            .into_iter()
            .find(|candidate| verb.eq_ignore_ascii_case(candidate.as_str()))
            .ok_or(RequestFault::BadPath)?;
        Ok(Self::Verb {
            verb,
            ids: Ids {
                association,
                candidate,
            },
        })
    }
}

impl Verb {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Connect => "connect",
            Self::Test => "test",
        }
    }
}

impl Ids<'_> {
    /// Ids may have any of the forms of RFC 9562 §4: upper or lower case, with
    /// or without hyphens, in braces, or as `urn:uuid:`.
    pub(super) fn parse(&self) -> Result<Place, RequestFault> {
        let association =
            Uuid::try_parse(self.association).map_err(|_| RequestFault::BadAssociation)?;
        let candidate = self
            .candidate
            .map(Uuid::try_parse)
            .transpose()
            .map_err(|_| RequestFault::BadCandidate)?;
        Ok(Place {
            association,
            candidate,
        })
    }
}

impl Place {
    pub(super) fn encode_request_line(&self, verb: Verb, writer: &mut PacketWriter) {
        writer
            .text("GET /jet/")
            .text(verb.as_str())
            .text("/")
            .id(self.association);
        if let Some(candidate) = self.candidate {
            writer.text("/").id(candidate);
        }
        writer.text(" HTTP/1.1").end_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(0x300f_1c82_d33b_11e9_bb65_2a2a_e2db_cce5);
    const C: Uuid = Uuid::from_u128(0x4c8f_409a_c1a2_4cae_bda2_84c5_90fe_d618);

    /// `expected` is `None` for `/`.
    #[track_caller]
    fn check(target: &str, expected: Result<Option<(Verb, Option<Uuid>)>, RequestFault>) {
        let got = Target::parse(target).and_then(|target| match target {
            Target::Root => Ok(None),
            Target::Verb { verb, ids } => ids.parse().map(|place| Some((verb, place))),
        });
        let expected = expected.map(|form| {
            form.map(|(verb, candidate)| {
                (
                    verb,
                    Place {
                        association: A,
                        candidate,
                    },
                )
            })
        });
        assert_eq!(got, expected, "{target}");
    }

    #[test]
    fn parses_every_form() {
        let two = |verb| Ok(Some((verb, Some(C))));
        let one = |verb| Ok(Some((verb, None)));
        let (a, c) = (A.hyphenated(), C.hyphenated());
        check("/", Ok(None));
        check("/?token=x", Ok(None));
        check(&format!("/jet/accept/{a}/{c}"), two(Verb::Accept));
        check(&format!("/jet/connect/{a}/{c}"), two(Verb::Connect));
        check(&format!("/jet/test/{a}/{c}"), two(Verb::Test));
        check(&format!("/jet/accept/{a}"), one(Verb::Accept));
        check(&format!("/jet/accept/{a}/"), one(Verb::Accept));
        check(
            &format!("/jet/accept/{a}/{c}/?token=/x/y"),
            two(Verb::Accept),
        );
        check(&format!("/JET/Accept/{a}/{c}"), two(Verb::Accept));
        check(&format!("/jet/accept/{a:X}/{c:X}"), two(Verb::Accept));
        check(
            &format!("/jet/accept/{}/{}", A.simple(), C.simple()),
            two(Verb::Accept),
        );
        check(
            &format!("/jet/accept/{}/{}", A.braced(), C.urn()),
            two(Verb::Accept),
        );
    }

    #[test]
    fn refuses_anything_else() {
        let (a, c) = (A.hyphenated(), C.hyphenated());
        for target in [
            "",
            "?",
            "*",
            "//",
            "/jet",
            "/jet/accept",
            "/jet/accept/",
            "jet/accept/x",
            &format!("/jmux/accept/{a}/{c}"),
            &format!("/jet/listen/{a}/{c}"),
            &format!("/jet/accept/{a}/{c}/x"),
            &format!("/jet/accept/{a}/{c}//"),
            &format!("http://host/jet/accept/{a}/{c}"),
        ] {
            check(target, Err(RequestFault::BadPath));
        }
        check("/jet/accept/x", Err(RequestFault::BadAssociation));
        check("/jet/accept//", Err(RequestFault::BadAssociation));
        check(
            &format!("/jet/accept//{c}"),
            Err(RequestFault::BadAssociation),
        );
        check(
            &format!("/jet/accept/{a}/x"),
            Err(RequestFault::BadCandidate),
        );
        check(
            &format!("/jet/accept/{a}//"),
            Err(RequestFault::BadCandidate),
        );
    }
}
