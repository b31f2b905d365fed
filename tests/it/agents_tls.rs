//! TLS from end to end inside a pair: the relay moves what it cannot read.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::agent_process::{expose, forward, relay};
use super::require::require;

/// A TLS server that answers each line with the line reversed, and hangs up at the line `CLOSE`.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(openssl: &Path, folder: &Path) -> Self {
        let mut child = Command::new(openssl)
            .current_dir(folder)
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev"])
            .args(["-cert", "certificate.pem", "-key", "key.pem"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let stdout = child.stdout.take().expect("a pipe");
        let address = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned))
            .expect("it says where it listens");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_certificate(openssl: &Path, folder: &Path) {
    let output = Command::new(openssl)
        .current_dir(folder)
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=there", "-addext", "subjectAltName=DNS:there"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn tls_goes_through_from_end_to_end() {
    let Some(openssl) = require("openssl") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_certificate(&openssl, folder);
    let server = Server::start(&openssl, folder);
    let (relay, address) = relay(folder, "127.0.0.1:0", &[]);
    let (expose, ticket) = expose(folder, address, &[&server.address]);
    let (forward, local) = forward(&ticket);

    let mut client = Command::new(&openssl)
        .current_dir(folder)
        .args(["s_client", "-quiet", "-connect", &local.to_string()])
        .args(["-CAfile", "certificate.pem", "-verify_return_error"])
        .args(["-verify_hostname", "there"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = client.stdin.take().expect("a pipe");
    stdin.write_all(b"sdrawkcab\nCLOSE\n").expect("it reads");
    let output = client.wait_with_output().expect("it ends");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "backwards\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    for program in [forward, expose, relay] {
        assert!(program.stop().success());
    }
}
