//! Forwarded ports through reverse proxies, and through an HTTP proxy on the way out.

use std::net::SocketAddr;
use std::path::Path;

use super::agent_process::Program;
use super::agents::{check_echo, check_greetings, echo, greet_and_count, service};
use super::agents_http::start_haproxy;
use super::ptth_agents::Meeting;
use super::require::require;
use super::socks_gateways::start_nginx;

/// As `docs/protocols/ptth-http.md` has them.
const NGINX_SETTINGS: &str = "proxy_set_header Connection \"\";\n\
    proxy_set_header X-Forwarded-For $remote_addr;\n\
    proxy_request_buffering off;\nproxy_buffering off;\nclient_max_body_size 0;\n\
    client_body_timeout 1h;\nproxy_read_timeout 1h;\nproxy_send_timeout 1h;\n";

fn check(program: &str, start: impl FnOnce(&Path, &Path, SocketAddr) -> (Program, SocketAddr)) {
    let Some(path) = require(program) else {
        return;
    };
    let mut meeting = Meeting::new(&[]);
    let (_gateway, address) = start(&path, meeting.folder.path(), meeting.address);
    meeting.url = format!("ptth+http://{address}");
    let echoing = format!("7={}", service(echo));
    let greeting = format!("25={}", service(greet_and_count));
    let expose = meeting.expose(&[&echoing, &greeting]);
    let (_greeted, local) = meeting.forward("home:25");
    check_greetings(local);
    let (forward, local) = meeting.forward("home:7");
    check_echo(local, 1, 3_000_000);
    for client in 2..10 {
        check_echo(local, client, 1000);
    }
    assert!(forward.stop().success() && expose.stop().success());
    assert!(meeting.relay.stop().success());
}

#[test]
fn nginx_passes_on_what_its_settings_let_stream() {
    check("nginx", |nginx, folder, relay| {
        start_nginx(nginx, folder, relay, NGINX_SETTINGS)
    });
}

#[test]
fn haproxy_passes_on_what_streams() {
    check("haproxy", |haproxy, folder, relay| {
        let lines = format!(
            "    mode http\n    option http-no-delay\n    option forwardfor\n    \
             server relay {relay}\n    \
             timeout connect 10s\n    \
             timeout client 1h\n    timeout server 1h\n"
        );
        start_haproxy(haproxy, folder, &lines)
    });
}
