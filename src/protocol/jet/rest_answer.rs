//! JET over HTTP: what a relay answers. `[JET-PROTO]` 2.2.2.1; the bodies that the
//! specification does not have are those of known servers.

use serde::Serialize;
use uuid::Uuid;

use super::public_url::PublicUrl;
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
