//! Those who ask for none of the relay's own paths: pages below `web.root`, or the way to
//! another site.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::Signal;
use tempfile::TempDir;

use super::agents::{echo, service};
use super::jet_client::{dial, read_to_end};
use super::patience::until;
use super::relay_process::Relay;
use super::require::require;
use super::rest::{exchange, read_response, request};
use super::websocks::{self, KEY, SOCKS5, check_echo, knock, visit};

/// A folder with `www` in it, and a file beside that nobody may see.
fn site() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let www = www(&folder);
    fs::create_dir_all(www.join("docs")).expect("a folder");
    for (name, text) in [
        ("index.html", "home"),
        ("about.html", "about"),
        ("docs/index.html", "docs"),
        (".htpasswd", "secret"),
        ("../secret", "secret"),
    ] {
        fs::write(www.join(name), text).expect("written");
    }
    folder
}

fn www(folder: &TempDir) -> PathBuf {
    folder.path().join("www")
}

/// A file with this below `[web]`.
fn config(folder: &TempDir, web: &str) -> PathBuf {
    let path = folder.path().join("relay.toml");
    fs::write(&path, format!("[web]\n{web}\n")).expect("written");
    path
}

fn start(folder: &TempDir, web: &str, options: &[&str]) -> Relay {
    let path = config(folder, web);
    let file = ["--config", path.to_str().expect("text")];
    Relay::start(&[options, &file].concat())
}

fn root(folder: &TempDir) -> String {
    format!("root = {:?}", www(folder).to_str().expect("text"))
}

/// All that comes of a request after which there is no other.
fn ask_once(relay: SocketAddr, line: &str, headers: &str) -> String {
    let mut stream = dial(relay);
    let closing = format!("{headers}Connection: close\r\n");
    let wire = request(line, &closing);
    stream.write_all(wire.as_bytes()).expect("sent");
    let (bytes, _) = read_to_end(&mut stream);
    String::from_utf8(bytes).expect("text")
}

fn curl(options: &[&str]) -> Option<Vec<u8>> {
    let program = require("curl")?;
    let output = Command::new(program)
        .args(["-s", "--max-time", "50"])
        .args(options)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{options:?}: {output:?}");
    Some(output.stdout)
}

#[test]
fn pages_are_served_beside_the_relays_own_paths() {
    let folder = site();
    let mut relay = start(&folder, &root(&folder), &[]);
    let address = relay.address;

    // All on one connection.
    let mut stream = dial(address);
    let mut ask = |line: &str, headers: &str| {
        let wire = request(line, headers);
        stream.write_all(wire.as_bytes()).expect("sent");
        read_response(&mut stream)
    };
    let home = ask("GET /", "");
    assert_eq!((home.status, home.body.as_str()), (200, "home"));
    assert_eq!(home.header("Connection"), Some("keep-alive"));
    let media_type = home.header("Content-Type");
    assert_eq!(media_type, Some("text/html; charset=utf-8"));
    assert_eq!(home.header("X-Content-Type-Options"), Some("nosniff"));
    let tag = home.header("ETag").expect("a tag").to_owned();
    let known = ask("GET /", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((known.status, known.body.as_str()), (304, ""));
    assert_eq!(ask("GET /about", "").body, "about");
    let moved = ask("GET /docs?x=y", "");
    assert_eq!(moved.status, 302);
    assert_eq!(moved.header("Location"), Some("/docs/?x=y"));
    assert_eq!(ask("GET /docs/", "").body, "docs");
    for line in ["GET /none", "GET /.htpasswd", "GET //", "GET /www/"] {
        assert_eq!(ask(line, "").status, 404, "{line}");
    }
    for path in [
        "/../secret",
        "/docs/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/..\\secret",
        "/%00",
    ] {
        assert_eq!(ask(&format!("GET {path}"), "").status, 400, "{path}");
    }
    let posted = ask("POST /", "Content-Length: 0\r\n");
    assert_eq!(posted.status, 405);
    assert_eq!(posted.header("Allow"), Some("GET, HEAD"));
    assert_eq!(ask("GET /jet/health", "").status, 200);
    assert_eq!(ask("GET /", "Upgrade: websocket\r\n").body, "home");

    let head = ask_once(address, "HEAD /about", "");
    assert!(head.contains("\r\nContent-Length: 5\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");

    let counters = relay.counters();
    assert_eq!(counters.count("pages_served"), 6);
    assert_eq!(counters.count("redirected"), 1);
    assert_eq!(counters.count("refused.bad_path"), 4);
    assert_eq!(counters.count("refused.malformed_path"), 6);
    assert_eq!(counters.count("refused.bad_method"), 1);
    relay.stop().check_clean();
}

#[test]
fn curl_reads_pages_whole_over_tls_or_not() {
    let folder = site();
    let big: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
    fs::write(www(&folder).join("big.bin"), &big).expect("written");
    let relay = start(&folder, &root(&folder), &[]);
    for scheme in ["http", "https"] {
        let url = |path: &str| format!("{scheme}://{}{path}", relay.address);
        let Some(got) = curl(&["-k", &url("/big.bin")]) else {
            return;
        };
        assert!(got == big, "{} bytes of {}", got.len(), big.len());
        let head = curl(&["-k", "-I", &url("/big.bin")]).expect("curl");
        let head = String::from_utf8(head).expect("text");
        assert!(head.contains("\r\nContent-Length: 1048576\r\n"), "{head}");
        let docs = curl(&["-k", "-L", &url("/docs")]).expect("curl");
        assert_eq!(docs, b"docs");
        let status = [
            "-k",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--path-as-is",
        ];
        for (path, expected) in [
            ("/../secret", "400"),
            ("/docs/%2e%2e/%2e%2e/secret", "400"),
            ("//secret", "404"),
            ("/", "200"),
        ] {
            let got = curl(&[&status[..], &[&url(path)]].concat()).expect("curl");
            assert_eq!(String::from_utf8_lossy(&got), expected, "{path}");
        }
    }
    relay.stop().check_clean();
}

#[test]
fn a_redirect_leads_to_the_same_path_of_another_site() {
    let folder = site();
    let mut relay = start(&folder, "redirect = \"https://example.com\"", &[]);
    let address = relay.address;
    for (line, location) in [
        ("GET /a/b?c=d", "/a/b?c=d"),
        ("HEAD /", "/"),
        ("POST //evil.example", "//evil.example"),
        ("GET http://evil.example/x", "/x"),
        ("GET /%0d%0aSet-Cookie:a=b", "/%0d%0aSet-Cookie:a=b"),
    ] {
        let response = exchange(address, line, "");
        assert_eq!(response.status, 308, "{line}");
        let expected = format!("https://example.com{location}");
        assert_eq!(response.header("Location"), Some(&*expected), "{line}");
        assert_eq!(response.header("Set-Cookie"), None);
    }
    assert_eq!(exchange(address, "GET /jet/health", "").status, 200);
    assert_eq!(exchange(address, "OPTIONS *", "").status, 404);
    let url = format!("http://{address}/x?y");
    let shown = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{redirect_url}",
        &url,
    ];
    if let Some(got) = curl(&shown) {
        assert_eq!(got, b"308 https://example.com/x?y");
    }
    let counters = relay.counters();
    assert!(counters.count("redirected") >= 5);
    assert_eq!(counters.count("refused.bad_path"), 1);
    relay.stop().check_clean();
}

#[test]
fn a_knock_is_heard_where_pages_are_served() {
    let folder = site();
    let lines = format!("[web]\n{}", root(&folder));
    let relay = websocks::relay_in(folder.path(), &lines, &[]);
    let mut visitor = visit(relay.address, KEY);
    let wire = [
        &midspan::protocol::websocks::MAX_FRAME[..],
        &websocks::connect(service(echo)),
    ]
    .concat();
    visitor.write_all(&wire).expect("sent");
    websocks::read_reply(&mut visitor);
    check_echo(&mut visitor, b"hello");
    let mut stream = dial(relay.address);
    let wrong = knock("alice", "guess", KEY, SOCKS5);
    stream.write_all(wrong.as_bytes()).expect("sent");
    let response = read_response(&mut stream);
    assert_eq!(response.status, 401);
    assert_eq!(response.header("WWW-Authenticate"), Some("Basic"));
    let page = request("GET /", "");
    stream.write_all(page.as_bytes()).expect("sent");
    assert_eq!(read_response(&mut stream).body, "home");
    drop(visitor);
    relay.stop().check_clean();
}

#[test]
fn slow_readers_share_what_they_read_and_hold_up_nobody() {
    const READERS: u64 = 40;
    let folder = site();
    let bytes = 8 << 20;
    fs::write(www(&folder).join("big.bin"), vec![b'x'; bytes]).expect("written");
    let options = ["--limit", "handshake_timeout_s=3"];
    let mut relay = start(&folder, &root(&folder), &options);
    let address = relay.address;
    let before = relay.resident_bytes();
    let ask = |_| {
        let mut stream = dial(address);
        set_socket_recv_buffer_size(&stream, 4096).expect("set");
        let wire = request("GET /big.bin", "");
        stream.write_all(wire.as_bytes()).expect("sent");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("it begins");
        assert_eq!(&start, b"HTTP/1.1 200");
        stream
    };
    let readers: Vec<TcpStream> = (0..READERS).map(ask).collect();
    for _ in 0..20 {
        assert_eq!(exchange(address, "GET /about", "").body, "about");
    }
    let more = relay.resident_bytes().saturating_sub(before);
    assert!(
        more < 2 * bytes as u64,
        "{more} bytes for {READERS} readers"
    );
    // They have as long as a handshake, and no longer.
    relay.wait_for_counters("the end of their time", |counters| {
        counters.count("refused.reply_failed") == READERS
    });
    drop(readers);
    relay.stop().check_clean();
}

#[test]
fn pages_that_change_are_taken_and_those_that_cannot_be_served_are_not() {
    let folder = site();
    let www = www(&folder);
    let mut relay = start(&folder, &root(&folder), &[]);
    let address = relay.address;
    let page = |line: &str| exchange(address, line, "");
    let changed_to = |path: &str, text: &str| {
        until("the change", || (page(path).body == text).then_some(()));
    };
    assert_eq!(page("GET /").body, "home");
    let tag = page("GET /").header("ETag").map(str::to_owned);
    fs::write(www.join("index.html"), "come").expect("written");
    relay.wait_for_line("the pages are taken");
    changed_to("GET /", "come");
    assert_ne!(page("GET /").header("ETag").map(str::to_owned), tag);

    symlink("../secret", www.join("link")).expect("a link");
    fs::write(www.join("index.html"), "never").expect("written");
    let said = relay.wait_for_line("the pages are not taken, those before stay");
    let reason = "www/link is a link that leads out of the root";
    assert!(said.contains(reason), "{said}");
    assert_eq!(page("GET /").body, "come");
    assert_eq!(page("GET /link").status, 404);
    relay.signal(Signal::HUP);
    let said = relay.wait_for_line("the configuration is not taken, the one before stays");
    assert!(said.contains(reason), "{said}");
    assert_eq!(page("GET /").body, "come");

    fs::remove_file(www.join("link")).expect("removed");
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is taken");
    changed_to("GET /", "never");

    // Another root, then none.
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("a folder");
    fs::write(other.join("index.html"), "elsewhere").expect("written");
    take(
        &mut relay,
        &folder,
        &format!("root = {:?}", text_of(&other)),
    );
    changed_to("GET /", "elsewhere");
    take(&mut relay, &folder, "redirect = \"http://example.com\"");
    until("the redirect", || {
        (page("GET /").status == 308).then_some(())
    });
    take(&mut relay, &folder, "");
    until("nothing", || (page("GET /").status == 404).then_some(()));
    relay.stop().check_clean();
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn take(relay: &mut Relay, folder: &TempDir, web: &str) {
    config(folder, web);
    relay.signal(Signal::HUP);
    relay.wait_for_line("the configuration is taken");
}
