//! RFC 1928 and RFC 1929, case by case, at the agent's port: each whole and byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use midspan::protocol::Progress;
use midspan::protocol::socks5::{Reply, ReplyCode};

use super::agents::{dial, echo, service};
use super::socks::{agent, secret, url};
use super::websocks::relay;

/// The method of RFC 1929.
const USER_PASSWORD: u8 = 2;

/// What a case says, and what the agent answers.
struct Case {
    name: &'static str,
    said: Vec<u8>,
    answer: Answer,
}

enum Answer {
    /// These bytes, and then the end.
    Closes(Vec<u8>),
    /// These bytes, and it listens on.
    Goes(&'static [u8]),
    /// A method, a reply of this code, and the end; with 00, these bytes behind it instead.
    Replies(ReplyCode, &'static [u8]),
}

use Answer::{Closes, Goes, Replies};

fn case(name: &'static str, said: impl Into<Vec<u8>>, answer: Answer) -> Case {
    Case {
        name,
        said: said.into(),
        answer,
    }
}

/// A greeting without authentication, and a request.
fn request(name: &'static str, start: [u8; 3], address: &[u8], port: u16, answer: Answer) -> Case {
    let port = port.to_be_bytes();
    let said = [b"\x05\x01\0", &start[..], address, &port].concat();
    case(name, said, answer)
}

fn name(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("short enough");
    [&[3, length], text].concat()
}

fn credentials(user: &[u8], password: &[u8]) -> Vec<u8> {
    let mut said = b"\x05\x01\x02\x01".to_vec();
    for field in [user, password] {
        said.push(u8::try_from(field.len()).expect("short enough"));
        said.extend_from_slice(field);
    }
    said
}

fn greetings() -> Vec<Case> {
    let mut all_methods = vec![5, 255];
    all_methods.extend((0..255).rev());
    let mut none_of_ours = vec![5, 253];
    none_of_ours.extend(3..=255);
    let refused = || Closes(b"\x05\xff".to_vec());
    vec![
        case("no method at all", *b"\x05\0", refused()),
        case(
            "255 methods, the last of them 00",
            all_methods,
            Goes(b"\x05\0"),
        ),
        case("253 methods, none of ours", none_of_ours, refused()),
        case(
            "only 02, and no user is asked for",
            *b"\x05\x01\x02",
            refused(),
        ),
        case("only 01 and 80", *b"\x05\x02\x01\x80", refused()),
        case("00 and 02", *b"\x05\x02\0\x02", Goes(b"\x05\0")),
        case("00 three times", *b"\x05\x03\0\0\0", Goes(b"\x05\0")),
        case(
            "version 4",
            *b"\x04\x01\0\x50\x7f\0\0\x01\0",
            Closes(vec![]),
        ),
    ]
}

fn passwords() -> Vec<Case> {
    let wrong = || Closes(b"\x05\x02\x01\x01".to_vec());
    let long = [b'x'; 255];
    vec![
        case(
            "00 and 02, where a user is asked for",
            *b"\x05\x02\0\x02",
            Goes(b"\x05\x02"),
        ),
        case(
            "only 00, where a user is asked for",
            *b"\x05\x01\0",
            Closes(b"\x05\xff".to_vec()),
        ),
        case(
            "the right password",
            credentials(b"me", b"right"),
            Goes(b"\x05\x02\x01\0"),
        ),
        case("a wrong password", credentials(b"me", b"wrong"), wrong()),
        case("a wrong user", credentials(b"you", b"right"), wrong()),
        case("sub-version 5", *b"\x05\x01\x02\x05", wrong()),
        case("no name and no password", credentials(b"", b""), wrong()),
        case("255 bytes of each", credentials(&long, &long), wrong()),
        case(
            "bytes that are no text",
            credentials(b"\xff\xfe", b"\0"),
            wrong(),
        ),
    ]
}

fn requests(echoing: SocketAddr, echoing6: SocketAddr, closed: u16) -> Vec<Case> {
    let loopback = b"\x01\x7f\0\0\x01";
    let loopback6 = [&[4][..], &[0; 15], &[1]].concat();
    let mapped = [&[4][..], &[0; 10], b"\xff\xff\x7f\0\0\x01"].concat();
    let (port, port6) = (echoing.port(), echoing6.port());
    let connect = [5, 1, 0];
    let done = || Replies(ReplyCode::Succeeded, b"");
    let refused = |code| Replies(code, b"");
    let general = || refused(ReplyCode::GeneralFailure);
    let no_kind = || refused(ReplyCode::AddressTypeNotSupported);
    let no_command = || refused(ReplyCode::CommandNotSupported);
    let no_host = || refused(ReplyCode::HostUnreachable);
    let mut pipelined = request("payload behind CONNECT", connect, loopback, port, done());
    pipelined.said.extend_from_slice(b"hello");
    pipelined.answer = Replies(ReplyCode::Succeeded, b"hello");
    let code = |code: u8| [5, code, 0];
    vec![
        pipelined,
        request("IPv4", connect, loopback, port, done()),
        request("IPv6", connect, &loopback6, port6, done()),
        request("IPv4 mapped into IPv6", connect, &mapped, port, done()),
        request("a name", connect, &name(b"localhost"), port, done()),
        request(
            "a name in capitals",
            connect,
            &name(b"LOCALHOST"),
            port,
            done(),
        ),
        request(
            "a name with a dot behind it",
            connect,
            &name(b"nobody.invalid."),
            80,
            no_host(),
        ),
        request(
            "an address as a name",
            connect,
            &name(b"127.0.0.1"),
            port,
            done(),
        ),
        request(
            "a reserved byte that is not 0",
            [5, 1, 255],
            loopback,
            port,
            done(),
        ),
        request(
            "nobody listens",
            connect,
            loopback,
            closed,
            refused(ReplyCode::ConnectionRefused),
        ),
        request(
            "port 0",
            connect,
            loopback,
            0,
            refused(ReplyCode::ConnectionRefused),
        ),
        request(
            "a rule forbids it",
            connect,
            loopback,
            25,
            refused(ReplyCode::NotAllowed),
        ),
        request(
            "no such name",
            connect,
            &name(b"nobody.invalid"),
            80,
            no_host(),
        ),
        request("a name of one byte", connect, &name(b"x"), 80, no_host()),
        request(
            "a name of 255 bytes",
            connect,
            &name(&[b'x'; 255]),
            80,
            no_host(),
        ),
        request(
            "a name beyond ASCII",
            connect,
            &name("bücher.invalid".as_bytes()),
            80,
            no_host(),
        ),
        request(
            "a name that is no text",
            connect,
            &name(b"\xff\xfe"),
            80,
            general(),
        ),
        request("a name with a zero", connect, &name(b"a\0b"), 80, general()),
        case(
            "a name of no bytes",
            *b"\x05\x01\0\x05\x01\0\x03\0",
            general(),
        ),
        // Where the relay serves it there are two replies: socks_bind.rs.
        request(
            "BIND, which the relay does not serve",
            code(2),
            loopback,
            port,
            no_command(),
        ),
        request("command 0", code(0), loopback, port, no_command()),
        request("command 4", code(4), loopback, port, no_command()),
        request("command 255", code(255), loopback, port, no_command()),
        case("address type 0", *b"\x05\x01\0\x05\x01\0\0", no_kind()),
        case("address type 2", *b"\x05\x01\0\x05\x01\0\x02", no_kind()),
        case("address type 5", *b"\x05\x01\0\x05\x01\0\x05", no_kind()),
    ]
}

/// All that the agent says until it closes.
fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Closed over bytes that it did not want.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    bytes
}

fn expect(stream: &mut TcpStream, answer: &[u8], name: &str) {
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).expect(name);
    assert_eq!(got, *answer, "{name}");
}

fn check_reply(name: &str, stream: &mut TcpStream, code: ReplyCode, behind: &[u8]) {
    expect(stream, &[5, 0], name);
    if code == ReplyCode::Succeeded {
        // The echo ends when we do.
        stream.shutdown(Shutdown::Write).expect("connected");
    }
    let answer = read_all(stream);
    let Ok(Progress::Complete { value, consumed }) = Reply::decode(&answer) else {
        panic!("{name}: {answer:?}");
    };
    assert_eq!(value.code, code, "{name}");
    let bound = value.bound.address().expect(name);
    assert_eq!(
        bound.port() != 0,
        code == ReplyCode::Succeeded,
        "{name}: {bound}"
    );
    assert_eq!(&answer[consumed..], behind, "{name}");
}

fn check(agent: SocketAddr, case: &Case) {
    for piece in [case.said.len(), 1] {
        let mut stream = dial(agent);
        stream.set_nodelay(true).expect("a socket");
        for bytes in case.said.chunks(piece) {
            // It may have been closed over the first of them.
            if stream.write_all(bytes).is_err() {
                break;
            }
        }
        match &case.answer {
            Closes(answer) => assert_eq!(read_all(&mut stream), *answer, "{}", case.name),
            Goes(answer) => {
                expect(&mut stream, answer, case.name);
                let chosen = *answer.last().expect(case.name);
                if chosen == USER_PASSWORD {
                    let password = credentials(b"me", b"right");
                    stream.write_all(&password[3..]).expect("sent");
                    expect(&mut stream, b"\x01\0", case.name);
                }
                // It listens on: to a command that nobody has.
                stream.write_all(b"\x05\0\0\x01\0\0\0\0\0\0").expect("sent");
                let answer = read_all(&mut stream);
                assert_eq!(answer[..4], *b"\x05\x07\0\x01", "{}", case.name);
            }
            Replies(code, behind) => check_reply(case.name, &mut stream, *code, behind),
        }
    }
}

#[test]
fn each_case_is_answered_as_the_specifications_say() {
    let rules = "[egress]\nreach = \"everything\"\nrules = [\"deny *:25\"]";
    let (folder, relay) = relay(rules);
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let user = secret(folder.path(), "user", "me:right");
    let options = ["--local-user-file", &user];
    let (_asking, asking) = agent(folder.path(), &url(&relay), &options);
    let echoing6 = TcpListener::bind("[::1]:0").expect("a free port");
    let port6 = echoing6.local_addr().expect("bound");
    thread::spawn(move || {
        for connection in echoing6.incoming().map_while(Result::ok) {
            thread::spawn(move || echo(connection));
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = listener.local_addr().expect("bound").port();
    drop(listener);
    for case in &greetings() {
        check(local, case);
    }
    for case in &passwords() {
        check(asking, case);
    }
    for case in &requests(service(echo), port6, closed) {
        check(local, case);
    }
}

#[test]
fn whoever_greets_and_says_nothing_more_is_closed_in_time() {
    let (folder, relay) = relay("");
    let (_agent, local) = agent(folder.path(), &url(&relay), &[]);
    let mut stream = dial(local);
    stream.write_all(b"\x05\x01\0").expect("sent");
    assert_eq!(read_all(&mut stream), b"\x05\0");
}
