//! PTTH over QUIC over bad ways: real processes, with a link between each proxy and the relay.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use super::agent_process::Program;
use super::agents::{check_echo, check_greetings, dial, echo, greet_and_count, service};
use super::patience::now;
use super::peers::udp_link::{UdpLink, Way};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting};

/// Both proxies, each by a link of its own.
struct Far {
    /// Of the server-side proxy and of the client-side one.
    links: [UdpLink; 2],
    meeting: Meeting,
    echoing: SocketAddr,
    greeting: SocketAddr,
    _programs: [Program; 3],
}

impl Far {
    fn new(way: Way, seed: u64) -> Self {
        let mut meeting = meeting(&["--cores", "1"]);
        let server_link = UdpLink::new(meeting.quic_address(), way, seed);
        let client_link = UdpLink::new(meeting.quic_address(), way, !seed);
        meeting.lead_by(server_link.address);
        let targets = [
            format!("7={}", service(echo)),
            format!("mail={}", service(greet_and_count)),
        ];
        let expose = expose(&meeting, &targets.each_ref().map(String::as_str));
        meeting.lead_by(client_link.address);
        let (echoes, echoing) = meeting.forward("home:7");
        let (greets, greeting) = meeting.forward("home:mail");
        Self {
            links: [server_link, client_link],
            meeting,
            echoing,
            greeting,
            _programs: [expose, echoes, greets],
        }
    }
}

/// Has several sessions at once over such ways, and checks what the links did to them.
fn check(what: &str, way: Way, sessions: u32, bytes: usize) {
    let mut far = Far::new(way, 7);
    let (echoing, greeting) = (far.echoing, far.greeting);
    let since = now();
    thread::scope(|scope| {
        for client in 0..sessions {
            scope.spawn(move || check_echo(echoing, client, bytes));
        }
        scope.spawn(move || check_greetings(greeting));
    });
    let took = since.elapsed();
    let kib = u64::from(sessions) * bytes as u64 / 1024;
    let said = format!("{what}: {kib} KiB to and fro in {took:?}");
    for link in &mut far.links {
        let passed = link.passed();
        writeln!(io::stderr(), "{said}; {passed:?}").expect("told");
        // A tenth of what chance would have it be.
        let share = |percent: f64| passed.passed as f64 * percent / 1000.0;
        assert!(passed.lost as f64 >= share(way.loss_percent), "{passed:?}");
        assert!(
            passed.overtaken as f64 >= share(way.late_percent),
            "{passed:?}"
        );
        assert_eq!(passed.too_many, 0, "{passed:?}");
    }
    // A byte there and back goes over both links twice.
    let since = now();
    let mut stream = dial(echoing);
    stream.write_all(b"!").expect("taken");
    stream.read_exact(&mut [0]).expect("an echo");
    assert!(since.elapsed() >= way.delay * 4);
    assert!(far.meeting.relay.stop().success());
}

#[test]
fn one_of_a_hundred_is_lost() {
    let way = Way {
        loss_percent: 1.0,
        ..Way::default()
    };
    check("1 % lost", way, 8, 1_000_000);
}

#[test]
fn one_of_twenty_is_lost() {
    let way = Way {
        loss_percent: 5.0,
        ..Way::default()
    };
    check("5 % lost", way, 8, 500_000);
}

#[test]
fn datagrams_overtake_each_other() {
    let way = Way {
        late_percent: 10.0,
        late_by: Duration::from_millis(3),
        ..Way::default()
    };
    check("10 % late by 3 ms", way, 8, 1_000_000);
}

#[test]
fn the_relay_is_40_ms_away_from_both() {
    let way = Way {
        delay: Duration::from_millis(20),
        ..Way::default()
    };
    check("40 ms away", way, 8, 1_000_000);
}

#[test]
fn all_that_may_happen_on_the_way_does() {
    let way = Way {
        loss_percent: 2.0,
        delay: Duration::from_millis(20),
        late_percent: 5.0,
        late_by: Duration::from_millis(8),
    };
    check("all together", way, 6, 100_000);
}
