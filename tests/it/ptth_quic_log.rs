//! PTTH over QUIC: what the three programs say of a session that is cut, as
//! `docs/operating.md` has it.

use rustix::process::Signal;

use super::agent_process::Program;
use super::agents::{assert_reset, echo, service, session};
use super::ptth_agents::Meeting;
use super::ptth_quic::{expose, meeting};

/// A session that runs, and all who have part in it.
struct Running {
    meeting: Meeting,
    forward: Program,
    expose: Program,
}

/// Cuts a session, and compares what `forward`, the relay and `expose` say, in this order: reason
/// and end, or nothing of whoever was killed.
#[track_caller]
fn check(limit: &str, cut: fn(&Running), expected: [Option<(&str, &str)>; 3]) {
    let meeting = meeting(&["--cores", "1", "--drain-timeout", "1h", "--limit", limit]);
    let expose = expose(&meeting, &[&service(echo).to_string()]);
    let (forward, local) = meeting.forward("home");
    let stream = session(local);
    let running = Running {
        meeting,
        forward,
        expose,
    };
    cut(&running);
    // Whose proxy is killed has an end from his kernel.
    if expected[0].is_some() {
        assert_reset(&stream);
    }
    let programs = [
        (&running.forward, " server=home port=default"),
        (&running.meeting.relay, " client=alice client_port="),
        (&running.expose, " client=alice client_port="),
    ];
    for ((program, whom), expected) in programs.into_iter().zip(expected) {
        let Some((reason, ended_by)) = expected else {
            continue;
        };
        let line = program.logged("stream ended");
        for part in [
            format!("reason=\"{reason}\""),
            format!("ended_by=\"{ended_by}\""),
            whom.to_owned(),
        ] {
            assert!(line.contains(&part), "no {part} in: {line}");
        }
    }
}

/// Has a program stop, and not wait.
fn stop_at_once(program: &Program) {
    program.terminate();
    program.logged("stopping");
    program.terminate();
}

const FROM_LEFT: Option<(&str, &str)> = Some(("reset_by_left", "left"));
const FROM_RIGHT: Option<(&str, &str)> = Some(("reset_by_right", "right"));
const DRAINED: Option<(&str, &str)> = Some(("drained", "relay"));

#[test]
fn a_session_that_was_silent() {
    let expired = Some(("expired", "relay"));
    check("ptth_idle_s=1", |_| {}, [FROM_RIGHT, expired, FROM_LEFT]);
}

#[test]
fn a_drain_that_is_over() {
    let any = "ptth_idle_s=100";
    let cuts: [(fn(&Running), _); 3] = [
        (
            |it| stop_at_once(&it.meeting.relay),
            [FROM_RIGHT, DRAINED, FROM_LEFT],
        ),
        (
            |it| stop_at_once(&it.forward),
            [DRAINED, FROM_LEFT, FROM_LEFT],
        ),
        (
            |it| stop_at_once(&it.expose),
            [FROM_RIGHT, FROM_RIGHT, DRAINED],
        ),
    ];
    for (cut, expected) in cuts {
        check(any, cut, expected);
    }
}

#[test]
fn a_program_that_was_killed() {
    // A silent peer is given up after this.
    let soon = "quic_idle_timeout_s=6";
    let cuts: [(fn(&Running), _); 3] = [
        (
            |it| it.meeting.relay.signal(Signal::KILL),
            [FROM_RIGHT, None, FROM_LEFT],
        ),
        (
            |it| it.forward.signal(Signal::KILL),
            [None, FROM_LEFT, FROM_LEFT],
        ),
        (
            |it| it.expose.signal(Signal::KILL),
            [FROM_RIGHT, FROM_RIGHT, None],
        ),
    ];
    for (cut, expected) in cuts {
        check(soon, cut, expected);
    }
}
