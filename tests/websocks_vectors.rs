//! WebSocks as other implementations speak it: `tests/vectors/websocks/`.

use std::time::Duration;

use midspan::access::{PasswordDigest, User, Users};
use midspan::protocol::Progress;
use midspan::protocol::http_head::{
    HEADERS_MAX, HeadPolicy, HeaderSlots, RequestHead, ResponseHead,
};
use midspan::protocol::socks5::{
    Asked, Client, Command, Destination, MethodPolicy, Pace, ReplyCode, Request, Server,
};
use midspan::protocol::websocks::{Knock, MAX_FRAME, PONG, Prelude, SubProtocol, authorization};
use serde_json::Value;

const AUTH: &str = include_str!("vectors/websocks/auth.json");
const TRANSCRIPTS: &str = include_str!("vectors/websocks/transcripts.json");

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn proofs_are_made_and_taken_as_theirs() {
    let auth = json(AUTH);
    let vectors = auth["auth"].as_array().expect("a list");
    assert_eq!(vectors.len(), 7);
    for vector in vectors {
        let text = |field: &str| vector[field].as_str().expect(field).to_owned();
        let kept = PasswordDigest::of(&text("password"));
        assert_eq!(kept.to_string(), text("inner_b64"));
        let minute = Duration::from_millis(vector["minute_ms"].as_u64().expect("a minute"));
        let proof = kept.proof(minute);
        assert_eq!(proof, text("hashed"));
        assert_eq!(authorization(&text("user"), &proof), text("authorization"));
        let users = Users::new(vec![User {
            name: text("user").into(),
            password: kept,
        }]);
        assert!(users.authenticate(&text("user"), &proof, minute).is_some());
    }
    assert_eq!(hex(auth["frame"].as_str().expect("hex")), MAX_FRAME);
    assert_eq!(hex(auth["pong"].as_str().expect("hex")), PONG);
}

/// All that one side said, in order.
fn said(transcript: &Value, direction: &str) -> Vec<u8> {
    let words = transcript.as_array().expect("a list").iter();
    let words = words.filter(|word| word["dir"].as_str() == Some(direction));
    words
        .flat_map(|word| hex(word["hex"].as_str().expect("hex")))
        .collect()
}

/// Reads the client's request and checks who it is; gives what follows.
fn read_knock(said: &[u8]) -> &[u8] {
    let mut slots = HeaderSlots::<HEADERS_MAX>::new();
    let head = RequestHead::decode(said, HeadPolicy::HTTP, &mut slots);
    let Ok(Progress::Complete { value, consumed }) = head else {
        panic!("{head:?}");
    };
    let knock = Knock::from_head(&value, &[SubProtocol::Plain]).expect("a knock");
    assert_eq!(knock.protocol, Some(SubProtocol::Plain));
    assert!(knock.reads_replies_alone);
    let (user, proof) = knock.credentials.clone().expect("credentials");
    assert_eq!(user, "alice");
    let right = PasswordDigest::of("pasSw0rD");
    // Within a day of the recording there is a minute in which this is the proof.
    let recorded = 1_795_223_580;
    let mut minutes = (recorded - 86_400..recorded + 86_400).step_by(60);
    assert!(minutes.any(|minute| right.proof(Duration::from_secs(minute)) == proof));
    // What their agent looks for in the answer.
    let response = knock.response();
    for part in [
        "HTTP/1.1 101 ",
        "\r\nUpgrade: websocket\r\n",
        "\r\nConnection: Upgrade\r\n",
        "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "\r\nSec-WebSocket-Protocol: socks5\r\n",
    ] {
        assert!(response.contains(part), "{response}");
    }
    assert!(!response.contains("Content-Length"));
    &said[consumed..]
}

/// What a server of ours says to a client's bytes up to its request, and the request.
fn serve(mut said: &[u8]) -> (Vec<u8>, Request) {
    loop {
        let Ok(Progress::Complete { value, consumed }) = Prelude::decode(said) else {
            panic!("{said:?}");
        };
        said = &said[consumed..];
        if value == Prelude::Begins {
            break;
        }
    }
    let mut server = Server::new(MethodPolicy::NoAuthentication);
    server.receive(said);
    let Ok(Some(Asked::Request(request))) = server.poll() else {
        panic!("{server:?}");
    };
    let mut answer = MAX_FRAME.to_vec();
    answer.extend_from_slice(&server.take_output());
    (answer, request)
}

#[test]
fn their_transcripts_are_understood_and_answered_in_their_bytes() {
    let transcripts = json(TRANSCRIPTS);
    let localhost = Destination::named("localhost", 29_000).expect("a name");
    let address = Destination::named("127.0.0.1", 29_000).expect("an address");
    for (name, destination) in [
        ("nonstrict_pooled_domain", &localhost),
        ("nonstrict_pooled_ipv4", &address),
        ("strict", &localhost),
    ] {
        let client = said(&transcripts[name], "c>s");
        let (answer, request) = serve(read_knock(&client));
        assert_eq!(request.command, Command::Connect);
        assert_eq!(&request.destination, destination, "{name}");

        let server = said(&transcripts[name], "s>c");
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        let head = ResponseHead::decode(&server, HeadPolicy::HTTP, &mut slots);
        let Ok(Progress::Complete { value, consumed }) = head else {
            panic!("{head:?}");
        };
        assert_eq!(value.status, 101);
        let behind = &server[consumed..];
        // The ten bytes and the method are all that the document fixes.
        assert!(behind.starts_with(&answer), "{name}");

        // And a client of ours, which says the same, makes of it what theirs did.
        let mut ours = Client::new(&request, None, Pace::AtOnce);
        let words = [&MAX_FRAME[..], &ours.take_output()].concat();
        let theirs = &client[client.len() - read_knock(&client).len()..];
        assert!(theirs.starts_with(&words), "{name}");
        let (_, socks) = behind.split_at(MAX_FRAME.len());
        let reply = ours.receive(socks).expect("an answer").expect("a reply");
        assert_eq!(reply.code, ReplyCode::Succeeded);
        assert_eq!(
            reply.bound,
            Destination::named("0.0.0.0", 29_000).expect("it")
        );
        assert!(
            ours.into_rest().starts_with(b"HTTP/1.0 200 OK\r\n"),
            "{name}"
        );
    }
}

#[test]
fn their_connections_wait_as_they_do() {
    let transcripts = json(TRANSCRIPTS);
    let client = said(&transcripts["pong"], "c>s");
    let mut waiting = read_knock(&client);
    let mut signs = 0;
    while !waiting.is_empty() {
        let alive = Prelude::decode(waiting);
        let Ok(Progress::Complete { value, consumed }) = alive else {
            panic!("{alive:?}");
        };
        assert_eq!(value, Prelude::KeptAlive);
        waiting = &waiting[consumed..];
        signs += 1;
    }
    assert_eq!(signs, 3);
}
