//! JET over HTTP: what a relay answers. `[JET-PROTO]` 2.2.2.1; the bodies that the
//! specification does not have are those of known servers.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::public_url::{PublicUrl, Transport};
use crate::protocol::http_head::Answer;

/// One route to an association.
#[derive(Clone, Copy, Debug)]
pub struct RouteTo<'relay> {
    /// The candidate of this route.
    pub candidate: Uuid,
    /// Where it leads.
    pub url: &'relay PublicUrl,
}

#[derive(Serialize)]
struct Created<'relay> {
    s: &'static str,
    v: IceServers<'relay>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IceServers<'relay> {
    ice_servers: Vec<IceServer<'relay>>,
}

#[derive(Serialize)]
struct IceServer<'relay> {
    url: std::borrow::Cow<'relay, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<Uuid>,
}

#[derive(Serialize)]
struct Gathered {
    candidates: Vec<GatheredCandidate>,
    id: Uuid,
}

#[derive(Serialize)]
struct GatheredCandidate {
    id: Uuid,
    url: String,
}

/// An association was created: its id in a header, and how to reach it.
#[must_use]
pub fn created(association: Uuid, stun: &[String], routes: &[RouteTo<'_>]) -> Answer {
    let stun = stun.iter().map(|url| IceServer {
        url: url.as_str().into(),
        candidate: None,
    });
    let routes = routes.iter().map(|route| IceServer {
        url: route.url.ice_url().into(),
        candidate: Some(route.candidate),
    });
    let body = Created {
        s: "ok",
        v: IceServers {
            ice_servers: stun.chain(routes).collect(),
        },
    };
    json(&body)
        .with_header("Jet-Association", association.hyphenated().to_string())
        .with_header("Jet-Version", "1")
}

/// The routes to an association.
#[must_use]
pub fn gathered(association: Uuid, routes: &[RouteTo<'_>]) -> Answer {
    let candidates = routes.iter().map(|route| GatheredCandidate {
        id: route.candidate,
        url: route.url.to_string(),
    });
    json(&Gathered {
        candidates: candidates.collect(),
        id: association,
    })
}

/// One association, to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssociationDetail {
    /// Its id.
    pub id: Uuid,
    /// When it was made, or somebody came to wait last, in seconds since 1970.
    pub created_unix_s: u64,
    /// Its candidates, in order.
    pub candidates: Vec<CandidateDetail>,
    /// Its sessions that run.
    pub sessions: Vec<SessionDetail>,
}

/// One candidate of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateDetail {
    /// Its id; the implicit one has none.
    pub id: Option<Uuid>,
    /// Where it leads, if it is one of the relay's routes.
    pub url: Option<PublicUrl>,
    /// As known servers name it.
    pub state: &'static str,
    /// Of its session: bytes from the acceptor, from the connector.
    pub bytes: [u64; 2],
}

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionDetail {
    /// When its legs were joined, in seconds since 1970.
    pub started_unix_s: u64,
    /// How long it may last.
    pub limit: Option<Duration>,
}

#[derive(Serialize)]
struct ListedAssociation {
    id: Uuid,
    version: u8,
    creation_timestamp: u64,
    #[serde(flatten)]
    detail: Option<ListedDetail>,
}

#[derive(Serialize)]
struct ListedDetail {
    candidates: Vec<ListedCandidate>,
    bytes_sent: u64,
    bytes_recv: u64,
}

#[derive(Serialize)]
struct ListedCandidate {
    id: Option<Uuid>,
    url: Option<String>,
    state: &'static str,
    association_id: Uuid,
    transport_type: Option<&'static str>,
    bytes_sent: u64,
    bytes_recv: u64,
}

#[derive(Serialize)]
struct ListedSession {
    association_id: Uuid,
    application_protocol: &'static str,
    recording_policy: bool,
    filtering_policy: bool,
    start_timestamp: String,
    /// In minutes; 0 is no limit.
    time_to_live: u64,
    connection_mode: &'static str,
}

#[derive(Serialize)]
struct Heartbeat<'relay> {
    hostname: &'relay str,
    version: &'static str,
    running_session_count: usize,
}

/// The associations, as known servers list them. What is sent is the acceptor's
/// word: it has sent what its connector receives.
#[must_use]
pub fn listed(associations: &[AssociationDetail], with_detail: bool) -> Answer {
    let item = |association: &AssociationDetail| ListedAssociation {
        id: association.id,
        version: 2,
        creation_timestamp: association.created_unix_s,
        detail: with_detail.then(|| detail(association)),
    };
    json(&associations.iter().map(item).collect::<Vec<_>>())
}

fn detail(association: &AssociationDetail) -> ListedDetail {
    let candidate = |candidate: &CandidateDetail| ListedCandidate {
        id: candidate.id,
        url: candidate.url.as_ref().map(ToString::to_string),
        state: candidate.state,
        association_id: association.id,
        transport_type: candidate.url.as_ref().map(|url| match url.transport() {
            Transport::Tcp => "Tcp",
            Transport::Tls => "Tls",
            Transport::Ws => "Ws",
            Transport::Wss => "Wss",
        }),
        bytes_sent: candidate.bytes[0],
        bytes_recv: candidate.bytes[1],
    };
    let sum = |side: usize| association.candidates.iter().map(|c| c.bytes[side]).sum();
    ListedDetail {
        candidates: association.candidates.iter().map(candidate).collect(),
        bytes_sent: sum(0),
        bytes_recv: sum(1),
    }
}

/// The sessions that run, as known servers list them.
#[must_use]
pub fn sessions(associations: &[AssociationDetail]) -> Answer {
    let of_association = |association: &AssociationDetail| {
        let id = association.id;
        let listed = association
            .sessions
            .iter()
            .map(move |session| ListedSession {
                association_id: id,
                application_protocol: "none",
                recording_policy: false,
                filtering_policy: false,
                start_timestamp: rfc_3339(session.started_unix_s),
                time_to_live: session
                    .limit
                    .map_or(0, |limit| limit.as_secs().div_ceil(60)),
                connection_mode: "rdv",
            });
        listed.collect::<Vec<_>>()
    };
    json(
        &associations
            .iter()
            .flat_map(of_association)
            .collect::<Vec<_>>(),
    )
}

/// How many sessions run, as a plain number.
#[must_use]
pub fn sessions_count(associations: &[AssociationDetail]) -> Answer {
    Answer::with_body(200, "text/plain", running(associations).to_string())
}

/// The relay lives, and how much it has to do.
#[must_use]
pub fn heartbeat(instance: &str, associations: &[AssociationDetail]) -> Answer {
    json(&Heartbeat {
        hostname: instance,
        version: env!("CARGO_PKG_VERSION"),
        running_session_count: running(associations),
    })
}

fn running(associations: &[AssociationDetail]) -> usize {
    associations.iter().map(|one| one.sessions.len()).sum()
}

fn rfc_3339(unix_s: u64) -> String {
    let seconds = i64::try_from(unix_s).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}

/// The relay lives.
#[must_use]
pub fn healthy(instance: &str) -> Answer {
    let text = format!("Jet instance \"{instance}\" is alive and healthy.");
    Answer::with_body(200, "text/plain", text)
}

fn json(body: &impl Serialize) -> Answer {
    let Ok(text) = serde_json::to_string(body) else {
        unreachable!("ids and texts can be written")
    };
    Answer::with_body(200, "application/json", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http_head::Persistence;

    const A: Uuid = Uuid::from_u128(0xe6ec_698c_5793_4c63_af79_bd64_4ccf_022f);
    const C: Uuid = Uuid::from_u128(0x4c8f_409a_c1a2_4cae_bda2_84c5_90fe_d618);

    fn wire(answer: &Answer) -> String {
        String::from_utf8(answer.encode(Persistence::KeepAlive)).unwrap()
    }

    #[test]
    fn answers_are_those_of_the_specification_and_of_known_servers() {
        let url: PublicUrl = "tcp://jet101.wayk.net:8080".parse().unwrap();
        let route = RouteTo {
            candidate: C,
            url: &url,
        };
        let created = wire(&created(A, &["stun:stun.wayk.net".into()], &[route]));
        for header in [
            "Jet-Association: e6ec698c-5793-4c63-af79-bd644ccf022f\r\n",
            "Jet-Version: 1\r\n",
            "Content-Type: application/json\r\n",
        ] {
            assert!(created.contains(header), "{created}");
        }
        assert!(created.ends_with(
            "\r\n\r\n{\"s\":\"ok\",\"v\":{\"iceServers\":[{\"url\":\"stun:stun.wayk.net\"},\
             {\"url\":\"jet:jet101.wayk.net:8080?transport=tcp\",\
             \"candidate\":\"4c8f409a-c1a2-4cae-bda2-84c590fed618\"}]}}"
        ));
        assert!(wire(&gathered(A, &[route])).ends_with(
            "\r\n\r\n{\"candidates\":[{\"id\":\"4c8f409a-c1a2-4cae-bda2-84c590fed618\",\
             \"url\":\"tcp://jet101.wayk.net:8080\"}],\
             \"id\":\"e6ec698c-5793-4c63-af79-bd644ccf022f\"}"
        ));
        assert!(
            wire(&healthy("jet101")).ends_with("Jet instance \"jet101\" is alive and healthy.")
        );
    }
}
