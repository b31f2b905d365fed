//! Real downloads by `curl` through both proxies, at the relay itself and behind HAProxy.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;

use super::agent_process::{Program, expose, forward, relay};
use super::patience::PATIENCE;
use super::require::require;

const FILE_BYTES: usize = 32 << 20;

/// Where the server hangs up on who asks for [`CUT`]: inside a segment, a page and a pipe.
const CUT_BYTES: usize = FILE_BYTES / 2 + 12_345;

/// So many downloads run at the same time.
const TOGETHER_COUNT: usize = 4;

/// The file.
pub(crate) const WHOLE: &str = "/whole";
/// The file for [`TOGETHER_COUNT`] clients, none of whom is answered before all have asked.
const TOGETHER: &str = "/together";
/// The file from a server that goes away.
const CUT: &str = "/cut";

/// More than any request head of `curl`.
const HEAD_BYTES_MAX: u64 = 16 << 10;

/// How `curl` exits when a body ended before its `Content-Length`.
const CURL_PARTIAL_FILE: i32 = 18;

/// An HTTP server for one file: one request a connection, the whole or one range.
pub(crate) struct FileServer {
    content: Vec<u8>,
    together: Barrier,
}

impl FileServer {
    pub(crate) fn start(content: Vec<u8>) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Arc::new(Self {
            content,
            together: Barrier::new(TOGETHER_COUNT),
        });
        let acceptor = Arc::clone(&server);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&acceptor);
                // A client that is gone says so itself.
                thread::spawn(move || server.serve(&connection));
            }
        });
        (server, address)
    }

    fn serve(&self, mut connection: &TcpStream) -> io::Result<()> {
        let head: Vec<String> = BufReader::new(connection.take(HEAD_BYTES_MAX))
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        let path = head
            .first()
            .and_then(|line| line.split(' ').nth(1))
            .unwrap_or_default();
        if path == TOGETHER {
            self.together.wait();
        }
        let size = self.content.len();
        let range = head
            .iter()
            .find_map(|line| line.strip_prefix("Range: bytes="))
            .map(|range| parse_range(range, size));
        let status = match &range {
            None => "200 OK".to_owned(),
            Some(Range { start, end }) => format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}",
                end - 1
            ),
        };
        let body = &self.content[range.unwrap_or(0..size)];
        write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        connection.write_all(match path {
            CUT => &body[..CUT_BYTES],
            _ => body,
        })
    }
}

/// `FIRST-LAST` or `FIRST-`, both counted from 0 and both sent (RFC 9110 §14.1.2).
fn parse_range(range: &str, size: usize) -> Range<usize> {
    let (first, last) = range.split_once('-').expect("FIRST-LAST");
    let end = match last {
        "" => size,
        last => last.parse::<usize>().expect("a number") + 1,
    };
    first.parse().expect("a number")..end
}

/// A client whose standard output says the status and how many bytes came.
fn start_curl(curl: &Path, options: &[&str], url: &str, into: &Path) -> Child {
    Command::new(curl)
        // Nothing of the user's own: the first option must be this one.
        .args(["--disable", "--noproxy", "*", "--silent", "--show-error"])
        .args(["--max-time", &PATIENCE.as_secs().to_string()])
        .args(["--write-out", "%{http_code} %{size_download}"])
        .args(options)
        .arg("--output")
        .arg(into)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs")
}

/// Waits until a client has ended as it should.
#[track_caller]
fn check_curl(curl: Child, exit_code: i32, status: u16, bytes: usize) {
    let output = curl.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        (output.status.code(), &*said),
        (Some(exit_code), &*format!("{status} {bytes}")),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Downloads through proxies that know the relay by the address `entrance`.
fn check_downloads(curl: &Path, folder: &Path, entrance: SocketAddr) {
    let mut content = vec![0; FILE_BYTES];
    fastrand::Rng::with_seed(7).fill(&mut content);
    let (server, target) = FileServer::start(content);
    let content = &server.content;
    let (expose, ticket) = expose(folder, entrance, &[&target.to_string()]);
    let (forward, local) = forward(&ticket);
    let url = |path| format!("http://{local}{path}");
    let start = |options: &[&str], path, into| start_curl(curl, options, &url(path), into);

    let copies: Vec<_> = (0..TOGETHER_COUNT)
        .map(|index| folder.join(format!("together_{index}")))
        .collect();
    let clients: Vec<_> = copies
        .iter()
        .map(|copy| start(&[], TOGETHER, copy))
        .collect();
    for client in clients {
        check_curl(client, 0, 200, FILE_BYTES);
    }
    for copy in &copies {
        let came = fs::read(copy).expect("downloaded");
        assert!(came == *content, "{} differs", copy.display());
    }

    let part = folder.join("part");
    let client = start(&["--range", "70001-5000000"], WHOLE, &part);
    check_curl(client, 0, 206, 4_930_000);
    let came = fs::read(&part).expect("downloaded");
    assert!(came == content[70_001..=5_000_000], "the range differs");

    // The server's early end arrives as an end, behind every byte that it sent.
    let resumed = folder.join("resumed");
    let client = start(&[], CUT, &resumed);
    check_curl(client, CURL_PARTIAL_FILE, 200, CUT_BYTES);
    let client = start(&["--continue-at", "-"], WHOLE, &resumed);
    check_curl(client, 0, 206, FILE_BYTES - CUT_BYTES);
    let came = fs::read(&resumed).expect("downloaded");
    assert!(came == *content, "the resumed download differs");

    for program in [forward, expose] {
        assert!(program.stop().success());
    }
}

/// HAProxy in TCP mode in front of a relay, and the address at which it listens.
fn haproxy(haproxy: &Path, folder: &Path, relay: SocketAddr) -> (Program, SocketAddr) {
    let patience_s = PATIENCE.as_secs();
    let lines = format!(
        "    mode tcp\n    server relay {relay}\n    timeout connect {patience_s}s\n    \
         timeout client {patience_s}s\n    timeout server {patience_s}s\n"
    );
    start_haproxy(haproxy, folder, &lines)
}

/// HAProxy with these lines for its one entrance, and the address at which that listens.
pub(crate) fn start_haproxy(haproxy: &Path, folder: &Path, lines: &str) -> (Program, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config = folder.join("haproxy.cfg");
    let text = format!("global\n    maxconn 100\nlisten entrance\n    bind fd@0\n{lines}");
    fs::write(&config, text).expect("written");
    let mut command = Command::new(haproxy);
    command
        .args(["-db", "-f"])
        .arg(&config)
        // The socket itself, so that its port is known and whoever dials it waits for HAProxy.
        .stdin(Stdio::from(OwnedFd::from(listener)));
    (Program::start_other(command), address)
}

#[test]
fn downloads_go_through() {
    let Some(curl) = require("curl") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (relay, address) = relay(folder, "127.0.0.1:0", &[]);
    check_downloads(&curl, folder, address);
    assert!(relay.stop().success());
}

#[test]
fn downloads_go_through_a_relay_behind_haproxy() {
    let (Some(curl), Some(haproxy_path)) = (require("curl"), require("haproxy")) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (relay, address) = relay(folder, "127.0.0.1:0", &[]);
    let (_haproxy, entrance) = haproxy(&haproxy_path, folder, address);
    check_downloads(&curl, folder, entrance);
    assert!(relay.stop().success());
}
