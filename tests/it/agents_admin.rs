//! What operators see of agents: the same as of a relay, as far as it makes sense.

use std::net::SocketAddr;
use std::process::Command;

use super::admin::{ask, metrics, status};
use super::agent_process::{Program, expose_command, relay};
use super::agents::{check_echo, echo, service};
use super::patience::until;

/// Where an agent says that operators are let in.
fn admin(agent: &Program) -> SocketAddr {
    let url = agent.reported("for operators: http://");
    let address = url.trim_end_matches('/').parse();
    address.expect("an address")
}

/// What `midspan status` tells of it.
fn told(admin: SocketAddr) -> String {
    let said = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["status", "--admin", &admin.to_string()])
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).expect("text")
}

#[test]
fn operators_see_both_ends_of_a_ticket() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_relay, address) = relay(folder.path(), "127.0.0.1:0", &[]);
    let target = service(echo).to_string();
    let mut exposing = expose_command(folder.path(), address, &[&target]);
    exposing.args(["--admin", "127.0.0.1:0"]);
    let expose = Program::start_other(exposing);
    let ticket = format!("jet+tcp://{}", expose.reported("  jet+tcp://"));
    let of_expose = admin(&expose);
    expose.logged("waiting at the relay");
    let forward = ["forward", "0", "--to", &ticket, "--admin", "127.0.0.1:0"];
    let forward = Program::start(&forward);
    let local = forward.reported("forwarding ").parse();
    let of_forward = admin(&forward);
    check_echo(local.expect("an address"), 1, 1000);
    for admin in [of_expose, of_forward] {
        // The end of a session is counted once both its connections are closed.
        until("the session's end", || {
            (status(admin)["pairs"] == 0).then_some(())
        });
        let seen = metrics(admin);
        assert_eq!(seen["midspan_paired_total"], 1.0);
        assert_eq!(seen["midspan_bytes_relayed_total"], 2000.0);
        assert_eq!(seen["midspan_ready"], 1.0);
        // Nobody meets at an agent.
        assert!(!seen.contains_key("midspan_associations"), "{seen:?}");
        assert_eq!(status(admin).get("associations"), None);
        assert_eq!(ask(admin, "/readyz").0, 200);
        let told = told(admin);
        assert!(told.contains("  counted      1 paired\n"), "{told}");
        assert!(!told.contains("associations"), "{told}");
    }
    assert!(forward.stop().success());
    assert!(expose.stop().success());
}
