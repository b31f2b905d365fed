//! The protocol cores of `midspan` and nothing else of it, under its name, so
//! that the harnesses read the same here and in `cargo test`, and a fuzz build
//! does not compile a runtime, a TLS library and a command line.

#[path = "../../src/protocol/mod.rs"]
pub mod protocol;
