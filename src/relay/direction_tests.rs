//! Turns of one direction, action by action.

use rustix::io::Errno;

use super::codec::Heard;
use super::direction::*;

const SPILL: SpillKey = SpillKey(7);
const CHAIN: ChainKey = ChainKey(9);

const COPY: Action = Action::Copy { slow: false };
const FILL: Action = Action::Fill { chain: None };
const REFILL: Action = Action::Fill { chain: Some(CHAIN) };
const EXTEND: Action = Action::Extend { chain: CHAIN };
const RELEASE: Action = Action::ReleaseChain { chain: CHAIN };

const fn drain(bytes: u32) -> Action {
    Action::Drain {
        chain: CHAIN,
        bytes,
    }
}

/// A quarter of a pipe: more than a fill that caught up.
const LONG: u32 = (1 << 20) / CAUGHT_UP_SHARE;

const fn filled(bytes: u32) -> Outcome {
    Outcome::Filled {
        chain: CHAIN,
        bytes,
        caught_up: bytes < LONG,
        heard: Heard::Open,
    }
}

/// All that was read was sent, and the source may have more.
const fn copied(received: u32) -> Outcome {
    Outcome::Copied {
        received,
        sent: received,
        source_drained: received < SCRATCH_BYTES,
        destination_full: false,
        spill: None,
    }
}

const fn copied_in_part(received: u32, sent: u32) -> Outcome {
    Outcome::Copied {
        received,
        sent,
        source_drained: received < SCRATCH_BYTES,
        destination_full: true,
        spill: Some(SPILL),
    }
}

/// Runs one turn of four moves and expects these actions, each with its
/// outcome, and this state in the end.
fn check(direction: &mut Direction, steps: &[(Action, Outcome)], state: State) {
    check_turn(direction, 4, steps, state);
}

fn check_turn(direction: &mut Direction, moves_max: u8, steps: &[(Action, Outcome)], state: State) {
    direction.begin_turn(moves_max);
    for (n, (expected, outcome)) in steps.iter().enumerate() {
        let action = direction.poll_action();
        assert_eq!(action, Some(*expected), "step {n} of {direction:?}");
        direction
            .handle_outcome(*expected, *outcome)
            .expect("no failure");
    }
    assert_eq!(direction.poll_action(), None, "{direction:?}");
    assert_eq!(direction.state(), state);
}

fn bulk() -> Direction {
    let mut direction = Direction::new(Mode::Small);
    let full = copied(SCRATCH_BYTES);
    check(&mut direction, &[(COPY, full), (COPY, full)], State::Queued);
    assert!(direction.is_bulk());
    direction
}

#[test]
fn a_small_message_costs_two_calls() {
    let mut direction = Direction::new(Mode::Small);
    check(&mut direction, &[(COPY, copied(64))], State::AwaitSource);
    assert_eq!(direction.relayed_bytes(), 64);
}

#[test]
fn a_turn_ends_with_its_budget() {
    let mut direction = Direction::new(Mode::CopyAlways);
    let full = copied(SCRATCH_BYTES);
    check_turn(
        &mut direction,
        2,
        &[(COPY, full), (COPY, full)],
        State::Queued,
    );
    check(
        &mut direction,
        &[(COPY, Outcome::SourceEmpty)],
        State::AwaitSource,
    );
}

#[test]
fn what_did_not_fit_goes_first_and_nothing_is_read_meanwhile() {
    let mut direction = Direction::new(Mode::Small);
    check(
        &mut direction,
        &[(COPY, copied_in_part(100, 30))],
        State::AwaitDestination,
    );
    assert_eq!(
        (direction.relayed_bytes(), direction.held_bytes()),
        (30, 70)
    );
    let send = Action::SendSpill { spill: SPILL };
    check(
        &mut direction,
        &[(send, Outcome::DestinationFull)],
        State::AwaitDestination,
    );
    check(
        &mut direction,
        &[(send, Outcome::Sent(69))],
        State::AwaitDestination,
    );
    let slow = Action::Copy { slow: true };
    check(
        &mut direction,
        &[(send, Outcome::Sent(1)), (slow, copied(5))],
        State::AwaitSource,
    );
    check(&mut direction, &[(COPY, copied(5))], State::AwaitSource);
    assert_eq!(direction.relayed_bytes(), 110);
}

#[test]
fn two_full_reads_in_a_row_promote() {
    let mut direction = Direction::new(Mode::Small);
    let full = copied(SCRATCH_BYTES);
    check(
        &mut direction,
        &[(COPY, full), (COPY, copied(1))],
        State::AwaitSource,
    );
    check(&mut direction, &[(COPY, full), (COPY, full)], State::Queued);
    assert_eq!(direction.mode(), Mode::Bulk);
    check(
        &mut direction,
        &[
            (FILL, filled(1 << 20)),
            (drain(1 << 20), Outcome::Sent(1 << 20)),
            (REFILL, Outcome::SourceEmpty),
            (RELEASE, Outcome::Done),
        ],
        State::AwaitSource,
    );
}

#[test]
fn a_pipe_is_drained_before_it_is_filled() {
    let mut direction = bulk();
    check(
        &mut direction,
        &[
            (FILL, filled(1000)),
            (drain(1000), Outcome::Sent(400)),
            (drain(600), Outcome::DestinationFull),
        ],
        State::AwaitDestination,
    );
    check(
        &mut direction,
        &[
            (drain(600), Outcome::Sent(600)),
            (REFILL, filled(50_000)),
            (drain(50_000), Outcome::Sent(50_000)),
            (REFILL, filled(60_000)),
        ],
        State::Queued,
    );
}

#[test]
fn four_small_splices_in_a_row_demote() {
    let mut direction = bulk();
    let small = [(REFILL, filled(10)), (drain(10), Outcome::Sent(10))];
    let large = [(REFILL, filled(9000)), (drain(9000), Outcome::Sent(9000))];
    let first = [(FILL, filled(10)), (drain(10), Outcome::Sent(10))];
    check(&mut direction, &[first, small].concat(), State::Queued);
    check(&mut direction, &[small, large].concat(), State::Queued);
    check(&mut direction, &[small, small].concat(), State::Queued);
    direction.set_low_water(1 << 16);
    let release = (RELEASE, Outcome::Done);
    check(
        &mut direction,
        &[small[0], small[1], release],
        State::AwaitSource,
    );
    check(
        &mut direction,
        &[
            first[0],
            (Action::ResetLowWater, Outcome::Done),
            first[1],
            release,
        ],
        State::AwaitSource,
    );
    assert_eq!(direction.mode(), Mode::Small);
}

#[test]
fn a_stream_that_caught_up_waits_for_its_mark() {
    const SHORT: u32 = LONG - 1;
    let long = [(FILL, filled(LONG)), (drain(LONG), Outcome::Sent(LONG))];
    let short = |fill| [(fill, filled(SHORT)), (drain(SHORT), Outcome::Sent(SHORT))];
    let release = (RELEASE, Outcome::Done);
    let streaming = || {
        let mut direction = bulk();
        direction.set_low_water(1 << 20);
        direction
    };

    let mut direction = streaming();
    let steps = [&long[..], &short(REFILL), &[release]].concat();
    check(&mut direction, &steps, State::AwaitSource);

    // What arrives while it waits for its destination is told to nobody.
    let mut direction = streaming();
    let blocked = [
        (FILL, filled(SHORT)),
        (drain(SHORT), Outcome::DestinationFull),
    ];
    check(&mut direction, &blocked, State::AwaitDestination);
    let empty = (REFILL, Outcome::SourceEmpty);
    check(
        &mut direction,
        &[(drain(SHORT), Outcome::Sent(SHORT)), empty, release],
        State::AwaitSource,
    );

    // With the rest of a pipe before it, too, the short one fits into the turn.
    let mut direction = streaming();
    check(&mut direction, &blocked, State::AwaitDestination);
    let rest = (drain(SHORT), Outcome::Sent(SHORT));
    let steps = [&[rest][..], &short(REFILL), &[release]].concat();
    check_turn(&mut direction, 2, &steps, State::AwaitSource);

    // Without a mark, or at the end of the stream, it reads on.
    let mut direction = bulk();
    let steps = [&short(FILL)[..], &[empty, release]].concat();
    check(&mut direction, &steps, State::AwaitSource);
    let mut direction = streaming();
    direction.close_source(false);
    let reset = (Action::ResetLowWater, Outcome::Done);
    let steps = [&[reset][..], &short(FILL), &[empty, release]].concat();
    check(&mut direction, &steps, State::AwaitSource);
}

/// A stream whose destination was full when a pipe of it was drained.
fn slow(chain_pipes: u8) -> Direction {
    let mut direction = bulk();
    direction.set_chain_pipes(chain_pipes);
    check(
        &mut direction,
        &[
            (FILL, filled(LONG)),
            (drain(LONG), Outcome::DestinationFull),
        ],
        State::AwaitDestination,
    );
    direction
}

#[test]
fn a_queue_behind_a_slow_destination_is_read_whole() {
    let mut direction = slow(3);
    check_turn(
        &mut direction,
        4,
        &[
            (drain(LONG), Outcome::Sent(LONG)),
            (REFILL, filled(LONG)),
            (EXTEND, filled(LONG)),
            (EXTEND, filled(LONG)),
        ],
        State::Queued,
    );
    check(
        &mut direction,
        &[
            (drain(3 * LONG), Outcome::Sent(LONG)),
            (drain(2 * LONG), Outcome::Sent(1)),
            (drain(2 * LONG - 1), Outcome::Sent(2 * LONG - 1)),
            // It was never full meanwhile.
            (REFILL, filled(LONG)),
        ],
        State::Queued,
    );
    let rest = [(drain(LONG), Outcome::Sent(LONG)), (REFILL, filled(LONG))];
    check_turn(&mut direction, 2, &rest, State::Queued);
}

#[test]
fn a_stream_that_was_demoted_begins_with_one_pipe() {
    let mut direction = slow(3);
    direction.demote();
    let rest = [(drain(LONG), Outcome::Sent(LONG)), (RELEASE, Outcome::Done)];
    let full = copied(SCRATCH_BYTES);
    let slow_copy = (Action::Copy { slow: true }, full);
    let steps = [&rest[..], &[slow_copy, (COPY, full)]].concat();
    check_turn(&mut direction, 3, &steps, State::Queued);
    let blocked = [
        (FILL, filled(LONG)),
        (drain(LONG), Outcome::DestinationFull),
    ];
    check(&mut direction, &blocked, State::AwaitDestination);
    let steps = [
        (drain(LONG), Outcome::Sent(LONG)),
        (REFILL, filled(LONG)),
        (drain(LONG), Outcome::Sent(LONG)),
    ];
    check_turn(&mut direction, 3, &steps, State::Queued);
}

#[test]
fn a_chain_ends_with_what_there_is_to_read() {
    let check_end = |outcome: Outcome, more: u32, next: (Action, Outcome)| {
        let mut direction = slow(3);
        let first = [
            (drain(LONG), Outcome::Sent(LONG)),
            (REFILL, filled(LONG)),
            (EXTEND, outcome),
            (drain(LONG + more), Outcome::DestinationFull),
        ];
        check(&mut direction, &first, State::AwaitDestination);
        direction.begin_turn(2);
        for (action, outcome) in [(drain(LONG + more), Outcome::Sent(LONG + more)), next] {
            assert_eq!(direction.poll_action(), Some(action));
            direction
                .handle_outcome(action, outcome)
                .expect("no failure");
        }
    };
    let refill = (REFILL, filled(LONG));
    check_end(Outcome::SourceEmpty, 0, refill);
    check_end(Outcome::NoPipe, 0, refill);
    check_end(filled(LONG - 1), LONG - 1, refill);
    check_end(Outcome::SourceEnded, 0, (RELEASE, Outcome::Done));
}

#[test]
fn without_a_pipe_bulk_is_copied() {
    let mut direction = bulk();
    let full = copied(SCRATCH_BYTES);
    check(
        &mut direction,
        &[(FILL, Outcome::NoPipe), (COPY, full), (COPY, copied(9000))],
        State::AwaitSource,
    );
    // The next turn asks again.
    check(
        &mut direction,
        &[(FILL, Outcome::SourceEmpty)],
        State::AwaitSource,
    );
}

#[test]
fn the_end_goes_out_behind_the_last_byte() {
    let mut direction = Direction::new(Mode::Small);
    direction.close_source(false);
    let end = (Action::ShutdownWrite, Outcome::Done);
    check(
        &mut direction,
        &[(COPY, copied(64)), (COPY, Outcome::SourceEnded), end],
        State::Ended,
    );

    let mut direction = bulk();
    direction.set_low_water(1 << 20);
    direction.close_source(false);
    check(
        &mut direction,
        &[
            (Action::ResetLowWater, Outcome::Done),
            (FILL, filled(10)),
            (drain(10), Outcome::DestinationFull),
        ],
        State::AwaitDestination,
    );
    check(
        &mut direction,
        &[
            (drain(10), Outcome::Sent(10)),
            (REFILL, Outcome::SourceEnded),
            (RELEASE, Outcome::Done),
            end,
        ],
        State::Ended,
    );
}

#[test]
fn a_prefix_goes_first() {
    let mut direction = Direction::new(Mode::SpliceAlways);
    direction.set_prefix(SPILL, 3);
    check(
        &mut direction,
        &[
            (Action::SendSpill { spill: SPILL }, Outcome::Sent(3)),
            (FILL, Outcome::SourceEmpty),
        ],
        State::AwaitSource,
    );
}

#[test]
fn failures_name_their_end() {
    let check = |outcome, expected| {
        let mut direction = Direction::new(Mode::Small);
        direction.begin_turn(1);
        let action = direction.poll_action().expect("a read");
        assert_eq!(direction.handle_outcome(action, outcome), Err(expected));
    };
    check(
        Outcome::SourceFailed(Errno::CONNRESET),
        Failure::Source(Errno::CONNRESET),
    );
    check(
        Outcome::DestinationFailed(Errno::PIPE),
        Failure::Destination(Errno::PIPE),
    );
}

/// What was read through codecs was sent, and the source has more.
const fn transformed(bytes: u32, passes: bool) -> Outcome {
    Outcome::Transformed {
        bytes,
        source_drained: false,
        spill: None,
        heard: Heard::Open,
        passes,
    }
}

fn passing() -> Direction {
    let mut direction = Direction::new(Mode::Transform { has_words: false });
    let full = (COPY, transformed(SCRATCH_BYTES, true));
    check(&mut direction, &[full, full], State::Queued);
    assert_eq!(direction.mode(), Mode::Passing);
    direction
}

#[test]
fn full_reads_of_what_passes_are_spliced() {
    let mut direction = passing();
    check(
        &mut direction,
        &[
            (FILL, filled(LONG)),
            (drain(LONG), Outcome::Sent(LONG)),
            (REFILL, Outcome::NoPipe),
            (RELEASE, Outcome::Done),
            (COPY, transformed(SCRATCH_BYTES, true)),
            (COPY, transformed(SCRATCH_BYTES, false)),
        ],
        State::Queued,
    );
    assert_eq!(direction.mode(), Mode::Transform { has_words: false });
    let bytes = 4 * SCRATCH_BYTES + LONG;
    assert_eq!(direction.relayed_bytes(), u64::from(bytes));
    let full = |passes| (COPY, transformed(SCRATCH_BYTES, passes));
    let short = (COPY, transformed(SCRATCH_BYTES - 1, true));
    let turn = [full(true), short, full(true), full(false)];
    check(&mut direction, &turn, State::Queued);
    assert_eq!(direction.mode(), Mode::Transform { has_words: false });
}

/// Whoever has the end may go at once, and is told before that.
#[test]
fn the_end_of_what_passes_is_said_in_the_turn_that_sends_it() {
    let mut direction = passing();
    let last = Outcome::Filled {
        chain: CHAIN,
        bytes: 5,
        caught_up: true,
        heard: Heard::Ended,
    };
    check_turn(
        &mut direction,
        2,
        &[
            (FILL, last),
            (drain(5), Outcome::Sent(5)),
            (RELEASE, Outcome::Done),
            (Action::Say { is_end: true }, Outcome::Said { spill: None }),
            (Action::ShutdownWrite, Outcome::Done),
        ],
        State::Ended,
    );
}
