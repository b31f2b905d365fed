//! TLS from end to end inside a pair: the relay moves what it cannot read.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::agent_process::{Program, expose, forward, relay};
use super::require::require;

/// A TLS server that answers each line with the line reversed, and hangs up at the line `CLOSE`.
fn tls_server(openssl: &Path, folder: &Path) -> (Program, String) {
    let mut command = Command::new(openssl);
    command
        .current_dir(folder)
        .args(["s_server", "-accept", "127.0.0.1:0", "-rev"])
        .args(["-cert", "certificate.pem", "-key", "key.pem"])
        .stdin(Stdio::null());
    let server = Program::start_other(command);
    let address = server.reported("ACCEPT ");
    (server, address)
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
    let (_server, target) = tls_server(&openssl, folder);
    let (relay, address) = relay(folder, "127.0.0.1:0", &[]);
    let (expose, ticket) = expose(folder, address, &[&target]);
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
