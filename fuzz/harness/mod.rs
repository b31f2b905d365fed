//! What every decoder owes to every input, target by target. The fuzzer runs
//! one of them; `cargo test` runs all of them over the corpus and over every
//! input that once broke one.

mod access_token;
mod http_head;
mod http_proxy;
mod http_request_head;
mod http_response_head;
mod jet_reply;
mod jet_request;
mod jproxy;
mod jproxy_keys;
mod prefixes;
mod proxy_header;
mod ptth_http;
mod ptth_quic;
mod socks5;
mod tls_handshake;
mod tls_records;
mod tls_session;
mod web_request;
mod websocket_frames;
mod websocks;

#[path = "../../tests/support/tls_forger.rs"]
mod tls_forger;
#[path = "../../tests/support/tls_sides.rs"]
mod tls_sides;

/// A target's name, and what it does with one input: panic if it finds
/// something.
pub(crate) type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: [Target; 17] = [
    ("access_token", access_token::run),
    ("http_request_head", http_request_head::run),
    ("http_response_head", http_response_head::run),
    ("jet_reply", jet_reply::run),
    ("jet_request", jet_request::run),
    ("jproxy", jproxy::run),
    ("jproxy_keys", jproxy_keys::run),
    ("proxy_header", proxy_header::run),
    ("ptth_http", ptth_http::run),
    ("ptth_quic", ptth_quic::run),
    ("socks5", socks5::run),
    ("tls_handshake", tls_handshake::run),
    ("tls_records", tls_records::run),
    ("http_proxy", http_proxy::run),
    ("web_request", web_request::run),
    ("websocket_frames", websocket_frames::run),
    ("websocks", websocks::run),
];

/// Runs the target of this name.
pub(crate) fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(candidate, _)| *candidate == name);
    let (_, run) = target.expect("a target of this name");
    run(data);
}
