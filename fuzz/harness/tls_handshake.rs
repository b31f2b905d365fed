//! `tls::Session` before its handshake, on both sides: what a stranger sends means
//! the same however it is cut, and no data comes of it.

use std::sync::Arc;

use midspan::tls::Session;

use super::tls_session::check;
use super::tls_sides::{SIDES, name};

pub(crate) fn run(data: &[u8]) {
    let step = 1 + usize::from(data.first().copied().unwrap_or_default()) % 31;
    let server = || Session::server(Arc::clone(&SIDES.ours.server)).expect("a session");
    let client = || {
        let config = Arc::clone(&SIDES.ours.client);
        let mut session = Session::client(config, name()).expect("a session");
        session.open(&mut [], &mut []).expect("its hello");
        session
    };
    assert!(check(step, || (server(), data.to_vec())).plain.is_empty());
    assert!(check(step, || (client(), data.to_vec())).plain.is_empty());
}
