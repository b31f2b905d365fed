//! Programs that others wrote go out by a tunnel.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread;

use midspan::protocol::socks5::Destination;

use super::agent_process::Program;
use super::agents_ssh::check_ssh_and_scp;
use super::jproxy::relay_at;
use super::jproxy_socks::{ANY, agent, key, url};
use super::require::require;
use super::socks_clients::{Outside, curl};
use super::socks_udp::{Client, bind};

/// What every name leads to, as the server below has it.
const ANSWER: [u8; 4] = [192, 0, 2, 7];

#[test]
fn curl_goes_out_by_socks_and_by_http() {
    let Some(program) = require("curl") else {
        return;
    };
    let (folder, relay) = relay_at(ANY, "");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let outside = Outside::by(folder, relay, (agent, local));
    let local = local.to_string();
    let http = format!("http://{local}");
    for (options, host) in [
        (&["--socks5", &*local][..], "127.0.0.1"),
        (&["--socks5-hostname", &local], "localhost"),
        (&["-x", &http], "localhost"),
        (&["-p", "-x", &http], "localhost"),
    ] {
        let output = outside.run(&mut curl(&program, options, &outside.url(host)));
        assert!(output.stdout == outside.content, "{options:?}");
    }
    outside.stop(4);
}

#[test]
fn ssh_and_scp_go_by_a_port_that_leads_there() {
    let (folder, relay) = relay_at(ANY, "");
    let relay_url = url(&relay);
    let key = key(folder.path());
    check_ssh_and_scp(folder.path(), |target| {
        let forward = Program::start(&[
            "forward",
            "0",
            "--to",
            target,
            "--relay",
            &relay_url,
            "--key-file",
            &key,
        ]);
        let local = forward.reported("forwarding ").parse();
        (vec![forward], local.expect("an address"))
    });
    relay.stop().check_clean();
}

#[test]
fn dig_is_answered() {
    let Some(dig) = require("dig") else {
        return;
    };
    let (folder, relay) = relay_at(ANY, "");
    let (agent, local) = agent(folder.path(), &url(&relay), &[]);
    let (server, there) = bind("127.0.0.1:0");
    thread::spawn(move || answer(&server));
    // dig speaks no SOCKS5.
    let (shim, asked_at) = bind("127.0.0.1:0");
    let client = Client::new(local);
    thread::spawn(move || pass_on(&shim, &client, &there.into()));
    let output = Command::new(dig)
        .args(["@127.0.0.1", "-p", &asked_at.port().to_string()])
        .args([
            "+short",
            "+noedns",
            "+tries=1",
            "+time=30",
            "example.com",
            "A",
        ])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "192.0.2.7\n");
    assert!(agent.stop().success());
    relay.stop().check_clean();
}

/// Answers queries for an address, each the same: RFC 1035 §4.1.
fn answer(server: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((count, from)) = server.recv_from(&mut query) {
        let mut response = query[..count].to_vec();
        // A response, with one answer: the name of the question, A, IN, a minute.
        response[2] |= 0x80;
        response[7] = 1;
        response.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        response.extend_from_slice(&ANSWER);
        server.send_to(&response, from).expect("sent");
    }
}

/// Passes queries and answers on for a client that has no proxy.
fn pass_on(shim: &UdpSocket, client: &Client, server: &Destination) {
    let mut query = [0; 512];
    while let Ok((count, from)) = shim.recv_from(&mut query) {
        client.send(server, &query[..count]);
        let (_, response) = client.receive();
        shim.send_to(&response, from).expect("sent");
    }
}
