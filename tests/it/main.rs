//! The real program as its users have it: processes, sockets, signals, limits of the kernel.
//!
//! Every relay listens on a port of the kernel's choice and keeps its state in a folder of its
//! own, so all tests may run at the same time. What a test waits for, it waits for by an event; the
//! time limits are generous and only end a test that hangs.

mod admin;
mod agent_process;
mod agents;
mod agents_admin;
mod agents_direct;
mod agents_http;
mod agents_ssh;
mod agents_tls;
mod agents_transports;
#[path = "../support/any_certificate.rs"]
mod any_certificate;
mod bad_input;
mod descriptors;
mod doctor;
mod drain;
mod fairness;
mod gate;
mod handoff;
mod integrity;
mod jet_client;
mod matrix;
mod memory;
mod network_namespace;
mod patience;
mod peers;
mod per_address;
mod pinned;
mod proxied;
mod ptth_admin;
mod ptth_agents;
mod ptth_ends;
mod ptth_gateways;
mod ptth_http;
mod ptth_memory;
mod ptth_pairings;
mod ptth_quic;
mod ptth_quic_ends;
mod ptth_quic_peers;
mod ptth_quic_bad_input;
mod ptth_quic_loss;
mod ptth_quic_moves;
mod ptth_quic_sad;
mod ptth_quic_stalls;
mod relay_process;
mod reload;
mod require;
mod rest;
mod ring_plane;
mod socks;
mod socks_bind;
mod socks_cases;
mod socks_clients;
mod socks_dials;
mod socks_gateways;
mod socks_http;
mod socks_relays;
mod socks_reload;
mod socks_udp;
mod start;
mod status_table;
mod systemd_notify;
mod systemd_sockets;
mod systemd_units;
mod transports;
mod web;
mod websocket;
mod websocket_clients;
mod websocket_conformance;
mod websocks;
mod websocks_bind;
mod websocks_reach;
mod websocks_users;
