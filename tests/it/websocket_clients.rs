//! Other people's WebSocket clients: a browser, `websockets`, curl; and `kosoku`, which
//! knows the whole protocol.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::jet_client::{accept, granted, new_place};
use super::relay_process::Relay;
use super::require::{require, skip};

/// Ended when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The Python with the packages that `.ci/run packages` installs, or `MIDSPAN_PYTHON`.
pub(crate) fn require_python() -> Option<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python3");
    let python = std::env::var_os("MIDSPAN_PYTHON").map_or(usual, PathBuf::from);
    if python.is_file() {
        return Some(python);
    }
    skip(&format!("{} not found", python.display()));
    None
}

pub(crate) fn script(name: &str) -> PathBuf {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scripts");
    scripts.join(name)
}

/// An acceptor over TCP that echoes until its connector has ended.
fn echo_at(relay: SocketAddr, place: midspan::protocol::jet::Place) -> thread::JoinHandle<()> {
    let mut acceptor = granted(relay, &accept(place));
    thread::spawn(move || {
        let mut reader = acceptor.try_clone().expect("a second handle");
        // A connector that ends while it is echoed to may cut the rest off.
        let _ = std::io::copy(&mut reader, &mut acceptor);
    })
}

fn url(scheme: &str, relay: SocketAddr, place: midspan::protocol::jet::Place) -> String {
    let association = place.association;
    let candidate = place.candidate.expect("two ids");
    format!("{scheme}://{relay}/jet/connect/{association}/{candidate}")
}

#[test]
fn the_whole_protocol_is_spoken_as_it_should_be() {
    let Some(python) = require_python() else {
        return;
    };
    let relay = Relay::start(&[]);
    let mut shim = Running(
        Command::new(&python)
            .arg(script("echo_behind_relay.py"))
            .arg(relay.address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs"),
    );
    let mut line = String::new();
    let stdout = shim.0.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let port = line.trim().strip_prefix("listening ").expect("a port");

    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(python.with_file_name("kosoku"))
        .args(["-m", "fuzzingclient", "-p", "4"])
        // What measures speed, and compression, which is declined.
        .args(["-x", "9.*", "-x", "12.*", "-x", "13.*", "-o"])
        .arg(folder.path())
        .arg(format!("127.0.0.1:{port}"))
        .output()
        .expect("kosoku runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("247 cases passed"), "{said}");
    drop(shim);
    relay.stop().check_clean();
}

#[test]
fn websockets_exchanges_text_and_binary() {
    let Some(python) = require_python() else {
        return;
    };
    let relay = Relay::start(&[]);
    for scheme in ["ws", "wss"] {
        let place = new_place();
        let echoing = echo_at(relay.address, place);
        let output = Command::new(&python)
            .arg(script("websocket_client.py"))
            .arg(url(scheme, relay.address, place))
            .output()
            .expect("python runs");
        assert!(output.status.success(), "{output:?}");
        echoing.join().expect("it ended");
    }
    relay.stop().check_clean();
}

#[test]
fn curl_is_upgraded() {
    let Some(curl) = require("curl") else {
        return;
    };
    let relay = Relay::start(&[]);
    for scheme in ["http", "https"] {
        let place = new_place();
        let mut acceptor = granted(relay.address, &accept(place));
        acceptor.write_all(b"banner\n").expect("sent");
        drop(acceptor);
        let output = Command::new(&curl)
            .args([
                "--silent",
                "--insecure",
                "--include",
                "--http1.1",
                "--max-time",
                "2",
            ])
            .args(["-H", "Upgrade: websocket", "-H", "Connection: Upgrade"])
            .args(["-H", "Sec-WebSocket-Version: 13"])
            .args(["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])
            .arg(url(scheme, relay.address, place))
            .output()
            .expect("curl runs");
        let said = output.stdout;
        assert!(said.starts_with(b"HTTP/1.1 101 "), "{said:?}");
        // A frame with the banner, and a Close.
        let frames = b"\x82\x07banner\n\x88\x02\x03\xe8";
        assert!(said.ends_with(frames), "{said:?}");
    }
}

#[test]
fn a_browser_exchanges_text_and_binary() {
    let Some(chromium) = require("chromium") else {
        return;
    };
    let relay = Relay::start(&[]);
    let place = new_place();
    let echoing = echo_at(relay.address, place);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let page = fs::read_to_string(script("browser.html")).expect("a page");
    let page = page.replace("@URL@", &url("wss", relay.address, place));
    let profile = tempfile::tempdir().expect("a folder");
    let browser = Running(
        Command::new(chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--ignore-certificate-errors", "--no-first-run"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{}/", listener.local_addr().expect("bound")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium runs"),
    );
    let reported = listener
        .incoming()
        .map_while(Result::ok)
        .find_map(|stream| serve_browser(stream, &page));
    drop(browser);
    let bytes = "grüße".len() + (16 << 20);
    let expected = format!("received {bytes} of {bytes}, closed 1000 true");
    assert_eq!(reported, Some(expected));
    echoing.join().expect("it ended");
    relay.stop().check_clean();
}

/// Gives the page out, or takes what it reports.
fn serve_browser(mut stream: TcpStream, page: &str) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let content = if request.starts_with("GET / ") {
        page
    } else {
        ""
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{content}",
        content.len()
    )
    .ok()?;
    let is_report = request.starts_with("POST /report ");
    is_report.then(|| String::from_utf8_lossy(&body).into_owned())
}
