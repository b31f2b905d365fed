//! Our WebSocket client against `kosoku`'s server, which knows the whole protocol.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use midspan::protocol::Progress;
use midspan::protocol::http_head::{HeadPolicy, HeaderSlots, ResponseHead};
use midspan::protocol::websocket::{
    ClientHandshake, CloseCode, ControlFrame, FrameHeader, Item, Kind, MaskKey, Opcode, Receiver,
    Role,
};
use serde_json::Value;

use super::jet_client::dial;
use super::patience::until;
use super::websocket_clients::{Running, require_python};

/// A client that echoes, a piece of a message as it comes.
struct Client {
    stream: TcpStream,
    receiver: Receiver,
    /// What came behind the server's answer.
    early: Vec<u8>,
}

impl Client {
    fn dial(server: SocketAddr, target: &str) -> Self {
        let mut stream = dial(server);
        let handshake = ClientHandshake::new(fastrand::u128(..).to_be_bytes(), &[]);
        let request = handshake.request(&server.to_string(), target, &[]);
        stream.write_all(request.as_bytes()).expect("sent");
        let mut received = Vec::new();
        let consumed = loop {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).expect("an answer");
            received.extend_from_slice(&buffer[..count]);
            let mut slots = HeaderSlots::<32>::new();
            match ResponseHead::decode(&received, HeadPolicy::HTTP, &mut slots).expect("http") {
                Progress::Partial { .. } => {}
                Progress::Complete { value, consumed } => {
                    handshake.check(&value).expect("an upgrade");
                    break consumed;
                }
            }
        };
        Self {
            stream,
            receiver: Receiver::new(Role::Client),
            early: received.split_off(consumed),
        }
    }

    /// Echoes until the connection ends; returns all data that came.
    fn run(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = std::mem::take(&mut self.early);
        loop {
            if !self.take(&mut bytes, &mut all) {
                return all;
            }
            bytes = vec![0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return all,
                Ok(count) => bytes.truncate(count),
            }
        }
    }

    /// Acts on what came; false when the connection is over.
    fn take(&mut self, mut bytes: &mut [u8], all: &mut Vec<u8>) -> bool {
        let mask = || MaskKey(fastrand::u32(..).to_be_bytes());
        loop {
            let received = match self.receiver.receive(bytes) {
                Ok(received) => received,
                Err(violation) => {
                    let close = ControlFrame::close(Some(violation.close_code()), Some(mask()));
                    let _ = self.stream.write_all(close.as_bytes());
                    return false;
                }
            };
            let consumed = received.consumed;
            let answer = match received.item {
                None => return true,
                Some(Item::Pong(_)) => Vec::new(),
                Some(Item::Ping(payload)) => ControlFrame::pong(&payload, Some(mask()))
                    .as_bytes()
                    .to_vec(),
                Some(Item::Close(code)) => {
                    let code = code.unwrap_or(CloseCode::NORMAL);
                    let close = ControlFrame::close(Some(code), Some(mask()));
                    let _ = self.stream.write_all(close.as_bytes());
                    return false;
                }
                Some(Item::Data(piece)) => {
                    all.extend_from_slice(piece.payload);
                    let key = mask();
                    let header = FrameHeader {
                        opcode: match (piece.is_first, piece.kind) {
                            (true, Kind::Text) => Opcode::Text,
                            (true, Kind::Binary) => Opcode::Binary,
                            (false, _) => Opcode::Continuation,
                        },
                        is_final: piece.is_last,
                        mask: Some(key),
                        payload_bytes: piece.payload.len() as u64,
                    };
                    let mut payload = piece.payload.to_vec();
                    key.apply(&mut payload);
                    [header.encode().as_bytes(), &payload].concat()
                }
            };
            if self.stream.write_all(&answer).is_err() {
                return false;
            }
            bytes = &mut std::mem::take(&mut bytes)[consumed..];
        }
    }
}

#[test]
fn a_client_speaks_the_whole_protocol_as_it_should() {
    let Some(python) = require_python() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    // It does not tell which port it was given.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let _server = Running(
        Command::new(python.with_file_name("kosoku"))
            .args(["-m", "fuzzingserver"])
            // What measures speed, and compression, which is not offered.
            .args(["-x", "9.*", "-x", "12.*", "-x", "13.*", "-o"])
            .arg(folder.path())
            .arg(address.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("kosoku runs"),
    );
    until("kosoku", || TcpStream::connect(address).ok());

    let count = Client::dial(address, "/getCaseCount").run();
    let count: u32 = String::from_utf8_lossy(&count).parse().expect("a number");
    assert_eq!(count, 247);
    for case in 1..=count {
        Client::dial(address, &format!("/runCase?case={case}&agent=midspan")).run();
    }
    Client::dial(address, "/updateReports?agent=midspan").run();

    let report: Value = until("a report", || {
        let report = fs::read(folder.path().join("index.json")).ok()?;
        serde_json::from_slice(&report).ok()
    });
    let cases = report["midspan"].as_object().expect("our cases");
    assert_eq!(cases.len(), 247);
    let passes = ["OK", "INFORMATIONAL", "NON-STRICT"];
    let failed: Vec<_> = cases
        .iter()
        .filter(|(_, case)| {
            let verdicts = [&case["behavior"], &case["behaviorClose"]];
            !verdicts
                .iter()
                .all(|verdict| passes.contains(&verdict.as_str().unwrap_or("")))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}
