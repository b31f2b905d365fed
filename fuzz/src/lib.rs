//! What of `midspan` takes a stranger's bytes without doing I/O, and nothing else of it,
//! under its name, so that the harnesses read the same here and in `cargo test`, and a
//! fuzz build does not compile a runtime and a command line.

#[path = "../../src/access/mod.rs"]
pub mod access;
#[path = "../../src/protocol/mod.rs"]
pub mod protocol;
#[path = "../../src/time.rs"]
pub mod time;
#[path = "../../src/tls/mod.rs"]
pub mod tls;
#[path = "../../src/web/mod.rs"]
pub mod web;
