//! `connections_per_address_max`: what one address holds is bounded, whatever it is at, and
//! costs the others nothing.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect as connect_socket, socket_with,
};
use rustix::process::Signal;

use super::jet_client::{
    accept, connect, dial, granted, new_place, packet, pair, ping_pong, read_reply, read_to_end,
};
use super::patience::{PATIENCE, until};
use super::peers::stalls::stall;
use super::relay_process::Relay;
use super::require::require_cores;

/// A connection from another address than [`dial`] has.
pub(crate) fn dial_from_elsewhere(relay: SocketAddr) -> TcpStream {
    try_from_elsewhere(relay).expect("the relay listens")
}

/// As [`dial_from_elsewhere`], where perhaps nobody listens.
pub(crate) fn try_from_elsewhere(relay: SocketAddr) -> Result<TcpStream, Errno> {
    let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
    let fd = socket_with(family, SocketType::STREAM, flags, None).expect("a socket");
    bind(&fd, &SocketAddr::from(([127, 0, 0, 2], 0))).expect("bound");
    connect_socket(&fd, &relay)?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    Ok(stream)
}

/// Whether the relay lets an acceptor in that says `opening`, and does not close without a
/// word.
fn is_let_in(stream: &mut TcpStream, opening: &[u8]) -> bool {
    // It may have been closed already.
    let _ = stream.write_all(opening);
    let mut first = [0];
    let is_answered = matches!(stream.peek(&mut first), Ok(1));
    if is_answered {
        assert_eq!(read_reply(stream).status.as_u16(), 200);
    }
    is_answered
}

#[test]
fn an_address_may_have_so_many_whatever_they_are_at() {
    // One shard, so that the limit is not shared out.
    let limit = "connections_per_address_max=4";
    let mut relay = Relay::start(&["--cores", "1", "--limit", limit]);
    let address = relay.address;
    let (mut acceptor, mut connector) = pair(address, new_place());
    let waiting = granted(address, &accept(new_place()));
    let halfway = stall(address, b"J");
    relay.wait_for_counters("four connections", |counters| {
        counters.count("accepted") == 4
    });
    let mut fifth = stall(address, b"J");
    assert_eq!(read_to_end(&mut fifth).0, b"");
    // It costs nobody else anything.
    let opening = packet(&accept(new_place()));
    assert!(is_let_in(&mut dial_from_elsewhere(address), &opening));
    ping_pong(&mut acceptor, &mut connector);

    // Each that goes makes room for one.
    drop(halfway);
    relay.wait_for_counters("its end", |counters| {
        counters.count("refused.closed_early") == 1
    });
    let place = new_place();
    let second = granted(address, &accept(place));
    let mut sixth = stall(address, b"J");
    assert_eq!(read_to_end(&mut sixth).0, b"");
    drop((acceptor, connector));
    relay.wait_for_counters("the session's end", |counters| counters.sum("ended.") == 1);
    let third = granted(address, &connect(place));
    let fourth = granted(address, &accept(new_place()));
    let mut seventh = stall(address, b"J");
    assert_eq!(read_to_end(&mut seventh).0, b"");
    drop((waiting, second, third, fourth));
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("refused.too_many_from_address"), 3);
}

#[test]
fn an_address_is_bounded_on_the_shard_where_its_legs_end_up() {
    if !require_cores(2) {
        return;
    }
    let limit = "connections_per_address_max=8";
    let relay = Relay::start(&["--cores", "2", "--limit", limit]);
    let come = || {
        let mut stream = dial(relay.address);
        is_let_in(&mut stream, &packet(&accept(new_place()))).then_some(stream)
    };
    // Those of the round before go from the count as they go.
    for _ in 0..3 {
        let mut waiting = Vec::new();
        until("each shard has its fill", || {
            waiting.extend(come());
            (waiting.len() == 8).then_some(())
        });
        assert!((0..60).all(|_| come().is_none()));
        drop(waiting);
    }
    let ended = relay.stop();
    ended.check_clean();
    assert!(ended.counters.count("refused.too_many_from_address") >= 180);
}

#[test]
fn the_limit_may_change_while_connections_live() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    let write = |max: u32| {
        let limit = format!("[limits]\nconnections_per_address_max = {max}\n");
        let text = format!("cores = 1\ncreate_on_accept = true\n{limit}");
        fs::write(&path, text).expect("written");
    };
    write(0);
    let mut relay = Relay::start(&["--config", path.to_str().expect("text")]);
    let address = relay.address;
    let come = || {
        let mut stream = dial(address);
        is_let_in(&mut stream, &packet(&accept(new_place()))).then_some(stream)
    };
    let mut kept: Vec<_> = (0..4).map_while(|_| come()).collect();
    assert_eq!(kept.len(), 4);
    let mut set = |max: u32| {
        write(max);
        relay.signal(Signal::HUP);
        relay.wait_for_line("the configuration is taken");
    };
    // Those that are there are counted, and stay.
    set(3);
    assert!(come().is_none());
    set(5);
    kept.push(until("the new limit", &come));
    assert!(come().is_none());
    kept.truncate(2);
    kept.extend((0..3).map(|_| until("room", &come)));
    assert!(come().is_none());
    drop(kept);
    relay.stop().check_clean();
}

#[test]
fn behind_a_load_balancer_it_is_the_clients_address_that_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    let text = "create_on_accept = true\ncores = 1\nproxy_protocol_from = [\"127.0.0.0/8\"]\n\
                [limits]\nconnections_per_address_max = 2\n";
    fs::write(&path, text).expect("written");
    let relay = Relay::start(&["--config", path.to_str().expect("text")]);
    let come = |last: u8| {
        let header = format!("PROXY TCP4 192.0.2.{last} 192.0.2.100 4711 443\r\n");
        let opening = [header.as_bytes(), &packet(&accept(new_place()))].concat();
        let mut stream = dial(relay.address);
        is_let_in(&mut stream, &opening).then_some(stream)
    };
    let kept: Vec<_> = (1..6).flat_map(|last| [come(last), come(last)]).collect();
    assert!(kept.iter().all(Option::is_some));
    for last in 1..6 {
        assert!(come(last).is_none());
    }
    drop(kept);
    let ended = relay.stop();
    ended.check_clean();
    assert_eq!(ended.counters.count("refused.too_many_from_address"), 5);
}
