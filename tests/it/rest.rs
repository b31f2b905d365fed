//! JET over HTTP: associations are made by requests, and met over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jsonwebtoken::{Algorithm, EncodingKey};
use midspan::protocol::Progress;
use midspan::protocol::http_head::{Body, HeadPolicy, HeaderSlots, ResponseHead};
use midspan::protocol::jet::Place;
use midspan::runtime::clock;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::jet_client::{
    End, accept, connect, dial, granted, implicit, new_association, new_place, pair, ping_pong,
    read_to_end, refused,
};
use super::patience::until;
use super::relay_process::Relay;
use super::require::{require, require_cores};

/// One response, as far as these tests look at it.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("json")
    }
}

pub(crate) fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n")
}

/// The next response on a connection; what comes behind it stays unread.
pub(crate) fn read_response(stream: &mut TcpStream) -> Response {
    use std::io::Read;
    let mut bytes = Vec::new();
    loop {
        let mut slots = HeaderSlots::<16>::new();
        if let Ok(Progress::Complete { value, consumed }) =
            ResponseHead::decode(&bytes, HeadPolicy::HTTP, &mut slots)
        {
            let Ok(Body::Length(length)) = value.body("GET") else {
                panic!("no length");
            };
            let wanted = consumed + usize::try_from(length).expect("short");
            if bytes.len() == wanted {
                let headers = value.headers.iter().map(|(name, value)| {
                    (name.to_owned(), String::from_utf8_lossy(value).into_owned())
                });
                return Response {
                    status: value.status,
                    headers: headers.collect(),
                    body: String::from_utf8_lossy(&bytes[consumed..]).into_owned(),
                };
            }
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        bytes.push(byte[0]);
    }
}

pub(crate) fn exchange(relay: SocketAddr, line: &str, headers: &str) -> Response {
    let mut stream = dial(relay);
    stream
        .write_all(request(line, headers).as_bytes())
        .expect("sent");
    read_response(&mut stream)
}

fn two_ids(association: Uuid, candidate: &Value) -> Place {
    let candidate = candidate.as_str().expect("an id").parse().expect("a uuid");
    Place {
        association,
        candidate: Some(candidate),
    }
}

#[test]
fn an_association_that_was_created_is_met_by_its_ids() {
    let relay = Relay::start(&[
        "--create-on-accept=false",
        "--jet-instance",
        "relay.example",
    ]);
    let address = relay.address;
    refused(address, &accept(new_association()), 404);

    let created = exchange(address, "GET /jet/create", "Jet-Version: 1\r\n");
    assert_eq!(created.status, 200);
    assert_eq!(created.header("Jet-Version"), Some("1"));
    let association = created.header("Jet-Association").expect("an association");
    let association: Uuid = association.parse().expect("a uuid");
    let json = created.json();
    assert_eq!(json["s"], "ok");
    let server = &json["v"]["iceServers"][0];
    let url = format!("jet:relay.example:{}?transport=tcp", address.port());
    assert_eq!(server["url"], url.as_str());

    // By its candidate, and by the association alone. Both stay: the end of the first
    // would delete the association.
    let mut pairs = Vec::new();
    for place in [
        two_ids(association, &server["candidate"]),
        implicit(association),
    ] {
        let mut acceptor = granted(address, &accept(place));
        let mut connector = granted(address, &connect(place));
        ping_pong(&mut connector, &mut acceptor);
        pairs.push((acceptor, connector));
    }
    drop(pairs);
    relay.stop().check_clean();
}

#[test]
fn clients_are_told_the_urls_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    let text = "create_on_accept = true\n[jet]\nstun = [\"stun:stun.example\"]\n\
                urls = [\"tcp://relay.example:443\", \"wss://relay.example\"]\n";
    std::fs::write(&path, text).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("text")]);
    let created = exchange(relay.address, "GET /jet/create", "").json();
    let servers = created["v"]["iceServers"].as_array().expect("a list");
    let urls: Vec<_> = servers.iter().map(|server| &server["url"]).collect();
    assert_eq!(
        urls,
        [
            "stun:stun.example",
            "jet:relay.example:443?transport=tcp",
            "jet:relay.example?transport=wss"
        ]
    );
    let path = format!(
        "POST /jet/association/{}/candidates",
        new_association().association
    );
    let gathered = exchange(relay.address, &path, "").json();
    assert_eq!(gathered["candidates"][1]["url"], "wss://relay.example/");
    relay.stop().check_clean();
}

#[test]
fn a_key_is_needed_where_the_relay_has_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    let make = |name: &str, scope: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_midspan"))
            .args(["key", name, "--scope", scope])
            .output()
            .expect("it runs");
        let said = String::from_utf8(output.stderr).expect("text");
        let key = said.lines().last().expect("a key").to_owned();
        assert!(key.starts_with("midspan_"), "{said}");
        let printed = String::from_utf8(output.stdout).expect("text");
        assert!(!printed.contains("midspan_"), "{printed}");
        (printed, key)
    };
    let (for_creating, creator) = make("signalling", "create");
    let (for_reading, reader) = make("operator", "read");
    std::fs::write(&path, format!("{for_creating}\n{for_reading}")).expect("written");
    let mut relay = Relay::start(&["--config", path.to_str().expect("text")]);
    let address = relay.address;
    let create = "GET /jet/create";
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");

    assert_eq!(exchange(address, create, &bearer(&creator)).status, 200);
    let line = format!("{create}?token={creator}");
    assert_eq!(exchange(address, &line, "").status, 200);
    assert_eq!(exchange(address, "GET /jet/health", "").status, 200);
    for (headers, status, reason) in [
        (String::new(), 401, "no_key"),
        (bearer("midspan_x"), 401, "unknown_key"),
        (bearer(&reader), 403, "out_of_scope"),
    ] {
        let refused = exchange(address, create, &headers);
        assert_eq!(refused.status, status, "{reason}");
        let challenge = (status == 401).then_some("Bearer");
        assert_eq!(refused.header("WWW-Authenticate"), challenge);
        assert_eq!(relay.counters().count(&format!("refused.{reason}")), 1);
    }
    let log = relay.stop().log;
    assert!(!log.contains(&creator) && !log.contains(&reader), "{log}");
    let granted = "bearer=\"signalling\" what=\"create\"";
    assert_eq!(log.matches(granted).count(), 2, "{log}");
}

/// Signs tokens that a relay with its configuration takes.
struct Issuer {
    key: KeyPair,
    folder: tempfile::TempDir,
}

impl Issuer {
    fn new() -> Self {
        Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn relay(&self) -> Relay {
        self.relay_with(&[])
    }

    fn relay_with(&self, options: &[&str]) -> Relay {
        let public = self.folder.path().join("issuer.pem");
        std::fs::write(&public, self.key.public_key_pem()).expect("written");
        let path = self.folder.path().join("relay.toml");
        let text = format!(
            "create_on_accept = false\n[[access.issuers]]\nname = \"idp\"\npublic_key = {:?}\n",
            public.to_str().expect("text")
        );
        std::fs::write(&path, text).expect("written");
        let config = ["--config", path.to_str().expect("text")];
        Relay::start(&[options, &config].concat())
    }

    /// A header that shows a token of this kind.
    fn bearer(&self, kind: &str, claims: &Value) -> String {
        let mut header = jsonwebtoken::Header::new(Algorithm::ES256);
        header.cty = Some(kind.to_owned());
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).expect("a key");
        let token = jsonwebtoken::encode(&header, claims, &key).expect("a token");
        format!("Authorization: Bearer {token}\r\n")
    }
}

#[test]
fn a_token_is_good_for_its_association_while_it_lasts() {
    let issuer = Issuer::new();
    let mut relay = issuer.relay();
    let address = relay.address;
    let now = clock::unix_time().as_secs();
    let place = implicit(new_association().association);
    let sign = |issuer: &Issuer, until: u64| {
        let claims = json!({"jet_cm": "rdv", "jet_aid": place.association, "exp": until});
        issuer.bearer("ASSOCIATION", &claims)
    };
    let bearer = sign(&issuer, now + 600);
    let create = format!("POST /jet/association/{}", place.association);
    let other = format!("POST /jet/association/{}", new_association().association);
    for (line, bearer, status, reason) in [
        (&create, sign(&issuer, now - 600), 401, "expired_token"),
        (&other, bearer.clone(), 403, "other_association"),
        (&create, sign(&Issuer::new(), now + 600), 401, "unknown_key"),
    ] {
        let refused = exchange(address, line, &bearer);
        assert_eq!(refused.status, status, "{reason}");
        assert_eq!(relay.counters().count(&format!("refused.{reason}")), 1);
    }
    refused(address, &accept(place), 404);

    let created = exchange(address, "GET /jet/create", &bearer);
    let association = place.association.to_string();
    assert_eq!(
        created.header("Jet-Association"),
        Some(association.as_str())
    );
    let mut acceptor = granted(address, &accept(place));
    let mut connector = granted(address, &connect(place));
    ping_pong(&mut connector, &mut acceptor);
    drop((acceptor, connector));
    let log = relay.stop().log;
    let token = bearer.trim().rsplit(' ').next().expect("a token");
    assert!(!log.contains(token), "{log}");
}

#[test]
fn a_numbered_token_serves_once_and_its_sessions_so_long() {
    let issuer = Issuer::new();
    let mut relay = issuer.relay();
    let address = relay.address;
    let exp = clock::unix_time().as_secs() + 600;
    let reading = json!({"scope": "gateway.sessions.read", "exp": exp});
    let reader = issuer.bearer("SCOPE", &reading);
    // Enough that both shards remember some.
    for number in 0..8 {
        let place = implicit(new_association().association);
        let claims = json!({
            "jet_cm": "rdv", "jet_aid": place.association, "exp": exp,
            "jti": number.to_string(), "jet_ttl": 90,
        });
        let bearer = issuer.bearer("ASSOCIATION", &claims);
        let create = format!("POST /jet/association/{}", place.association);
        assert_eq!(exchange(address, &create, &bearer).status, 200);
        for again in [&create, "GET /jet/create"] {
            assert_eq!(exchange(address, again, &bearer).status, 401, "{again}");
        }
        let mut acceptor = granted(address, &accept(place));
        let mut connector = granted(address, &connect(place));
        ping_pong(&mut connector, &mut acceptor);
        let sessions = exchange(address, "GET /jet/sessions", &reader).json();
        assert_eq!(sessions[0]["time_to_live"], 90);
    }
    assert_eq!(relay.counters().count("refused.spent_token"), 16);
    relay.stop().check_clean();
}

#[test]
fn an_issuer_creates_no_more_often_than_it_may() {
    let issuer = Issuer::new();
    let mut relay = issuer.relay_with(&["--limit", "creations_per_minute_max=5"]);
    let exp = clock::unix_time().as_secs() + 600;
    let create = |number: u32| {
        let claims = json!({"scope": "*", "exp": exp, "jti": number.to_string()});
        let bearer = issuer.bearer("SCOPE", &claims);
        exchange(relay.address, "GET /jet/create", &bearer).status
    };
    let statuses: Vec<u16> = (0..8).map(create).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    // Others are another matter, and a token that was refused so is not used up.
    let claims = json!({"scope": "*", "exp": exp, "jti": "7"});
    let bearer = issuer.bearer("SCOPE", &claims);
    assert_eq!(
        exchange(relay.address, "GET /jet/sessions", &bearer).status,
        200
    );
    assert_eq!(relay.counters().count("refused.too_fast"), 3);
    relay.stop().check_clean();
}

#[test]
fn an_issuer_holds_no_more_associations_than_it_may() {
    let issuer = Issuer::new();
    // One shard, so that the limit is not shared out.
    let options = ["--cores", "1", "--limit", "associations_per_bearer_max=3"];
    let mut relay = issuer.relay_with(&options);
    let claims = json!({"scope": "*", "exp": clock::unix_time().as_secs() + 600});
    let bearer = issuer.bearer("SCOPE", &claims);
    let ask = |request: &str| exchange(relay.address, request, &bearer);
    let ids: Vec<String> = (0..3)
        .map(|_| {
            let created = ask("GET /jet/create");
            let id = created.header("Jet-Association").expect("an association");
            id.to_owned()
        })
        .collect();
    assert_eq!(ask("GET /jet/create").status, 429);
    // What is known already is no other.
    let known = format!("POST /jet/association/{}", ids[0]);
    assert_eq!(ask(&known).status, 200);
    let gone = format!("DELETE /jet/association/{}", ids[1]);
    assert_eq!(ask(&gone).status, 200);
    assert_eq!(ask("GET /jet/create").status, 200);
    assert_eq!(ask("GET /jet/create").status, 429);
    assert_eq!(relay.counters().count("refused.too_many_of_bearer"), 2);
    relay.stop().check_clean();
}

#[test]
fn an_issuer_may_have_another_key() {
    let mut issuer = Issuer::new();
    let mut relay = issuer.relay();
    let address = relay.address;
    let create = |issuer: &Issuer| {
        let claims = json!({"scope": "*", "exp": clock::unix_time().as_secs() + 600});
        let bearer = issuer.bearer("SCOPE", &claims);
        exchange(address, "GET /jet/create", &bearer).status
    };
    assert_eq!(create(&issuer), 200);
    let path = issuer.folder.path().join("issuer.pem");
    std::fs::write(&path, "no key").expect("written");
    relay.wait_for_line("a file that has changed is not taken, what it held before stays");
    assert_eq!(create(&issuer), 200);
    issuer.key = Issuer::new().key;
    assert_eq!(create(&issuer), 401);
    // Found without being told of.
    std::fs::write(&path, issuer.key.public_key_pem()).expect("written");
    relay.wait_for_line("the configuration is taken");
    until("the other key", || (create(&issuer) == 200).then_some(()));
    relay.stop().check_clean();
}

#[test]
fn a_client_that_asks_before_it_sends_a_body_is_told_to() {
    let relay = Relay::start(&[]);
    let mut stream = dial(relay.address);
    let head = request(
        "POST /jet/health",
        "Content-Length: 3\r\nExpect: 100-continue\r\n",
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut said = [0; 25];
    stream.read_exact(&mut said).expect("a word");
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").expect("sent");
    assert_eq!(read_response(&mut stream).status, 405);
    relay.stop().check_clean();
}

#[test]
fn a_session_that_carries_nothing_ends() {
    let mut relay = Relay::start(&["--limit", "session_idle_s=1"]);
    let (mut idle, mut other) = pair(relay.address, new_place());
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                ping_pong(&mut connector, &mut acceptor);
                rounds += 1;
            }
            rounds
        });
        assert_eq!(read_to_end(&mut idle), (Vec::new(), End::Reset));
        assert_eq!(read_to_end(&mut other), (Vec::new(), End::Reset));
        stop.store(true, Ordering::Relaxed);
        busy.join().expect("it was not ended")
    });
    assert!(rounds > 0);
    // And the other one when it rests as well.
    assert_eq!(read_to_end(&mut acceptor), (Vec::new(), End::Reset));
    relay.wait_for_counters("sessions to end", |counters| {
        counters.count("ended.expired") == 2
    });
    relay.stop().check_clean();
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let mut relay = Relay::start(&["--limit", "session_ttl_s=1"]);
    let mut pairs: Vec<_> = (0..20).map(|_| pair(relay.address, new_place())).collect();
    for (acceptor, connector) in &mut pairs {
        // No end of either stream, which was cut.
        assert_eq!(read_to_end(acceptor), (Vec::new(), End::Reset));
        assert_eq!(read_to_end(connector), (Vec::new(), End::Reset));
    }
    relay.wait_for_counters("sessions to end", |counters| {
        counters.count("ended.expired") == 20
    });
    let ended = relay.stop();
    ended.check_clean();
    assert!(
        ended.log.contains("reason=\"expired\" ended_by=\"relay\""),
        "{}",
        ended.log
    );
}

#[test]
fn an_association_of_the_clients_choice_lives_with_its_owner() {
    if !require_cores(2) {
        return;
    }
    let mut relay = Relay::start(&["--create-on-accept=false", "--cores", "2"]);
    let address = relay.address;
    // Enough that both shards own some, and that some are asked for on the other.
    for _ in 0..16 {
        let place = new_association();
        let id = place.association.hyphenated();
        let path = format!("/jet/association/{id}");
        assert_eq!(exchange(address, &format!("GET {path}"), "").status, 404);
        let posted = exchange(address, &format!("POST {path}"), "Content-Length: 0\r\n");
        assert_eq!((posted.status, posted.body.as_str()), (200, ""));
        assert_eq!(exchange(address, &format!("GET {path}"), "").status, 200);
        let gathered = exchange(address, &format!("POST {path}/candidates"), "").json();
        let again = exchange(address, &format!("POST {path}/candidates"), "").json();
        assert_eq!(gathered, again);
        assert_eq!(gathered["id"], id.to_string().as_str());
        let chosen = exchange(
            address,
            "GET /jet/create",
            &format!("Jet-Association: {id}\r\n"),
        );
        let server = chosen.json()["v"]["iceServers"][0]["candidate"].clone();
        assert_eq!(gathered["candidates"][0]["id"], server);
        let place = two_ids(place.association, &server);
        let mut acceptor = granted(address, &accept(place));
        let mut connector = granted(address, &connect(place));
        ping_pong(&mut connector, &mut acceptor);
    }
    let counters = relay.counters();
    assert_eq!(counters.count("paired"), 16);
    assert_eq!(counters.count("refused.not_found"), 16);
    relay.stop().check_clean();
}

#[test]
fn a_connection_takes_one_request_after_the_other() {
    let relay = Relay::start(&[]);
    let mut stream = dial(relay.address);
    // Cut anywhere, and the next one right behind.
    let wire = [
        request("GET /jet/health", ""),
        request("POST /jet/health", "Content-Length: 3\r\n"),
        "abc".to_owned(),
        request("GET /jet/health", "Connection: close\r\n"),
    ]
    .concat();
    for piece in wire.as_bytes().chunks(7) {
        stream.write_all(piece).expect("sent");
    }
    let first = read_response(&mut stream);
    assert_eq!(first.status, 200);
    assert!(first.body.ends_with("is alive and healthy."));
    let second = read_response(&mut stream);
    assert_eq!((second.status, second.header("Allow")), (405, Some("GET")));
    let third = read_response(&mut stream);
    assert_eq!(third.header("Connection"), Some("close"));
    assert_eq!(read_to_end(&mut stream), (Vec::new(), End::Closed));
    relay.stop().check_clean();
}

#[test]
fn who_never_stops_asking_leaves_others_their_turn() {
    let relay = Relay::start(&["--cores", "1"]);
    let (mut acceptor, mut connector) = pair(relay.address, new_place());
    let mut asking = dial(relay.address);
    let mut reading = asking.try_clone().expect("a second handle");
    let asker = thread::spawn(move || {
        let burst = request("GET /health", "").repeat(100);
        // Until the relay, which parts with it in the end, takes no more.
        while asking.write_all(burst.as_bytes()).is_ok() {}
    });
    let reader = thread::spawn(move || read_to_end(&mut reading).0.len());
    for _ in 0..50 {
        ping_pong(&mut acceptor, &mut connector);
    }
    assert!(!asker.is_finished(), "others had to wait until it stopped");
    drop((acceptor, connector));
    relay.stop().check_clean();
    asker.join().expect("it ended");
    assert!(reader.join().expect("it ended") > 0, "it was answered");
}

#[test]
fn a_relay_may_be_known_by_an_address() {
    for (instance, host) in [("[2001:db8::1]", "[2001:db8::1]"), ("[::1]:9", "[::1]")] {
        let relay = Relay::start(&["--jet-instance", instance]);
        let port = match instance.ends_with(']') {
            true => relay.address.port(),
            false => 9,
        };
        let created = exchange(relay.address, "GET /jet/create", "").json();
        let url = format!("jet:{host}:{port}?transport=tcp");
        assert_eq!(created["v"]["iceServers"][0]["url"], url.as_str());
        relay.stop().check_clean();
    }
}

#[test]
fn what_is_refused_is_answered_and_counted() {
    let mut relay = Relay::start(&[]);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(16 << 10));
    let many = request("GET /", &"a: b\r\n".repeat(64));
    for (wire, status, reason) in [
        (request("GET /", ""), 404, "bad_path"),
        (request("GET /favicon.ico", ""), 404, "bad_path"),
        (request("DELETE /jet/create", ""), 405, "bad_method"),
        (
            request("GET /jet/association/x", ""),
            400,
            "bad_association",
        ),
        (request("GET /jet/sessions", ""), 401, "no_key"),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400, "no_host"),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), 400, "not_http"),
        ("GET /a\0 HTTP/1.1\r\n\r\n".into(), 400, "not_http"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".into(),
            400,
            "not_http",
        ),
        (
            request("GET /", "Content-Length: 1\r\nContent-Length: 2\r\n"),
            400,
            "ambiguous_body",
        ),
        (
            request(
                "GET /",
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            ),
            400,
            "ambiguous_body",
        ),
        (
            request("POST /", "Content-Length: 7000\r\n"),
            413,
            "body_too_long",
        ),
        (long, 431, "head_too_long"),
        (many, 431, "too_many_headers"),
    ] {
        let counter = format!("refused.{reason}");
        let before = relay.counters().count(&counter);
        let mut stream = dial(relay.address);
        stream.write_all(wire.as_bytes()).expect("sent");
        assert_eq!(read_response(&mut stream).status, status, "{wire:.60}");
        assert_eq!(relay.counters().count(&counter), before + 1, "{reason}");
    }
    relay.stop().check_clean();
}

#[test]
fn an_idle_connection_does_not_hold_up_a_relay_that_stops() {
    let relay = Relay::start(&[
        "--limit",
        "handshake_timeout_s=300",
        "--drain-timeout",
        "1h",
    ]);
    let mut halfway = dial(relay.address);
    halfway
        .write_all(b"GET /jet/health HTTP/1.1\r\n")
        .expect("sent");
    let mut stream = dial(relay.address);
    stream
        .write_all(request("GET /jet/health", "").as_bytes())
        .expect("sent");
    assert_eq!(read_response(&mut stream).status, 200);
    relay.signal(Signal::TERM);
    assert_eq!(read_to_end(&mut stream), (Vec::new(), End::Closed));
    assert_eq!(read_response(&mut halfway).status, 503);
    drop(halfway);
    relay.wait().check_clean();
}

#[test]
fn curl_asks_as_scripts_do() {
    let Some(curl) = require("curl") else {
        return;
    };
    let relay = Relay::start(&[]);
    let url = format!("http://{}/jet/health", relay.address);
    let output = Command::new(curl)
        .args(["--silent", "--show-error", "--fail", &url, &url])
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said.matches("is alive and healthy.").count(), 2, "{said}");
    relay.stop().check_clean();
}
