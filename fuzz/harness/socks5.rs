//! `socks5`: each message by itself, and both roles, whose input may be cut anywhere.

use midspan::protocol::Progress;
use midspan::protocol::socks5::{
    Asked, Client, Command, Credentials, Destination, Greeting, MethodPolicy, Pace, Reply, Request,
    Server, udp,
};

use super::prefixes;

pub(crate) fn run(data: &[u8]) {
    let _ = prefixes::check(data, Greeting::decode);
    let _ = prefixes::check(data, Credentials::decode);
    if let Ok(Progress::Complete { value, consumed }) = prefixes::check(data, Request::decode) {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        let again = Request::decode(&encoded);
        let is_same =
            matches!(&again, Ok(Progress::Complete { value: again, .. }) if *again == value);
        assert!(is_same && encoded.len() <= consumed.max(22), "{again:?}");
    }
    if let Ok(Progress::Complete { value, .. }) = prefixes::check(data, Reply::decode) {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        let again = Reply::decode(&encoded);
        assert!(matches!(again, Ok(Progress::Complete { value: again, .. }) if again == value));
    }
    if let Ok((peer, payload)) = udp::decode(data) {
        let mut encoded = Vec::new();
        udp::encode_header(&peer, &mut encoded);
        assert!(encoded.len() <= udp::HEADER_BYTES_MAX);
        encoded.extend_from_slice(payload);
        assert_eq!(udp::decode(&encoded), Ok((peer, payload)));
    }
    for policy in [MethodPolicy::NoAuthentication, MethodPolicy::UserPassword] {
        assert_eq!(
            serve(policy, data, data.len().max(1)),
            serve(policy, data, 1)
        );
    }
    for command in [Command::Connect, Command::Bind] {
        for credentials in [None, Credentials::new("user", "password")] {
            let whole = ask(command, credentials.clone(), data, data.len().max(1));
            assert_eq!(whole, ask(command, credentials, data, 1));
        }
    }
}

/// What a server says, hears and keeps of a client's bytes in pieces of this size.
fn serve(policy: MethodPolicy, data: &[u8], piece: usize) -> (Vec<u8>, Vec<Asked>, Vec<u8>) {
    let mut server = Server::new(policy);
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    for bytes in data.chunks(piece) {
        server.receive(bytes);
        loop {
            let asked = server.poll();
            said.extend_from_slice(&server.take_output());
            match asked {
                Ok(None) => break,
                Ok(Some(asked)) => {
                    let is_right =
                        matches!(&asked, Asked::Credentials(shown) if shown.user() != b"x");
                    let wants_verdict = matches!(asked, Asked::Credentials(_));
                    heard.push(asked);
                    if wants_verdict {
                        let verdict = server.handle_verdict(is_right);
                        said.extend_from_slice(&server.take_output());
                        if verdict.is_err() {
                            return (said, heard, Vec::new());
                        }
                    }
                }
                // What came behind may not have been received.
                Err(_) => return (said, heard, Vec::new()),
            }
        }
    }
    (said, heard, server.into_rest())
}

/// What a client says and makes of a server's bytes in pieces of this size.
fn ask(
    command: Command,
    credentials: Option<Credentials>,
    data: &[u8],
    piece: usize,
) -> (Vec<u8>, Vec<Reply>) {
    let request = Request {
        command,
        destination: Destination::named("example.com", 80).expect("a name"),
    };
    let mut client = Client::new(&request, credentials, Pace::StepByStep);
    let mut said = client.take_output();
    let mut replies = Vec::new();
    for mut bytes in data.chunks(piece) {
        loop {
            let reply = client.receive(bytes);
            said.extend_from_slice(&client.take_output());
            match reply {
                Ok(None) => break,
                Ok(Some(reply)) => replies.push(reply),
                Err(_) => return (said, replies),
            }
            // The second may have come with the first.
            bytes = &[];
        }
    }
    assert!(replies.len() <= if command == Command::Bind { 2 } else { 1 });
    (said, replies)
}
