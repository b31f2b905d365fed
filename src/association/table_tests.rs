//! The table, step by step.

use std::collections::HashMap;
use std::time::Duration;

use ahash::RandomState;
use uuid::Uuid;

use super::answer::Refusal::{self, AlreadyConnected, Full, NotFound, NotWaiting};
use super::key::{AssociationKey, CandidateKey, RendezvousKey};
use super::table::ClosingCause::{self, AssociationEnded, Expired};
use super::table::OnUnknown::{self, Create, Refuse};
use super::table::{Limits, Stale, Table};
use crate::time::Timestamp;

/// Associations are small numbers, and so are candidates; 0 is the implicit
/// one. A session or acceptance is named by its acceptor.
enum Step {
    At(u64),
    Make(u128, u128, Result<(), Refusal>),
    Accept(u128, u128, u64, OnUnknown, Result<Option<u64>, Refusal>),
    Connect(u128, u128, Result<u64, Refusal>),
    Test(u128, u128, Result<(), Refusal>),
    Gone(u64, Result<(), Stale>),
    Ended(u64, Result<(), Stale>),
    Closes(Vec<(u64, ClosingCause)>),
    Deadline(Option<u64>),
    Holds(u32),
}
use Step::{Accept, At, Closes, Connect, Deadline, Ended, Gone, Holds, Make, Test};

fn table(associations_max: u32, candidates_max: u8) -> Table<u64> {
    let limits = Limits {
        associations_max,
        candidates_max,
        ..Limits::default()
    };
    Table::new(limits, RandomState::with_seeds(1, 2, 3, 4))
}

fn key(association: u128, candidate: u128) -> RendezvousKey {
    RendezvousKey {
        association: AssociationKey(Uuid::from_u128(association)),
        candidate: (candidate != 0).then(|| CandidateKey(Uuid::from_u128(candidate))),
    }
}

fn seconds(at: u64) -> Timestamp {
    Timestamp::default() + Duration::from_secs(at)
}

/// Runs the steps on a table of at most 3 associations with 2 candidates.
#[track_caller]
fn check(steps: &[Step]) {
    let mut table = table(3, 2);
    let mut refs = HashMap::new();
    let mut now = seconds(0);
    for (n, step) in steps.iter().enumerate() {
        match step {
            At(at) => now = seconds(*at),
            Make(a, c, expected) => {
                assert_eq!(table.create(key(*a, *c), None, now), *expected, "step {n}");
            }
            Accept(a, c, leg, on_unknown, expected) => {
                let accepted = table.accept(key(*a, *c), *leg, *on_unknown, now);
                refs.extend(accepted.map(|accepted| (*leg, accepted.candidate)));
                assert_eq!(accepted.map(|a| a.replaced), *expected, "step {n}");
            }
            Connect(a, c, expected) => {
                let joined = table.connect(key(*a, *c), now);
                assert_eq!(joined.map(|joined| joined.acceptor), *expected, "step {n}");
                assert!(joined.is_ok_and(|j| j.candidate == refs[&j.acceptor]) || joined.is_err());
            }
            Test(a, c, expected) => {
                assert_eq!(table.test(key(*a, *c), now), *expected, "step {n}");
            }
            Gone(leg, expected) => {
                let gone = table.waiting_leg_gone(refs[leg], now);
                assert_eq!(gone, *expected, "step {n}");
            }
            Ended(leg, expected) => {
                assert_eq!(table.session_ended(refs[leg]), *expected, "step {n}");
            }
            Closes(expected) => {
                let mut closed: Vec<_> = std::iter::from_fn(|| table.poll_close(now))
                    .map(|closing| (closing.leg, closing.cause))
                    .collect();
                closed.sort_by_key(|(leg, _)| *leg);
                assert_eq!(closed, *expected, "step {n}");
            }
            Deadline(expected) => {
                assert_eq!(table.next_deadline(), expected.map(seconds), "step {n}");
            }
            Holds(expected) => assert_eq!(table.len(), *expected, "step {n}"),
        }
        table.invariants();
    }
}

#[test]
fn one_acceptor_meets_one_connector() {
    check(&[
        Accept(1, 0, 10, Create, Ok(None)),
        Test(1, 0, Ok(())),
        Connect(1, 0, Ok(10)),
        Gone(10, Err(Stale)),
        Connect(1, 0, Err(AlreadyConnected)),
        Accept(1, 0, 11, Create, Err(AlreadyConnected)),
        Ended(10, Ok(())),
        Ended(10, Err(Stale)),
        Connect(1, 0, Err(NotFound)),
        Test(1, 0, Err(NotFound)),
        Holds(0),
        Deadline(None),
    ]);
}

#[test]
fn unknown_ones_are_refused_unless_to_be_created() {
    check(&[
        Accept(1, 0, 10, Refuse, Err(NotFound)),
        Accept(1, 5, 10, Refuse, Err(NotFound)),
        Connect(1, 0, Err(NotFound)),
        Connect(1, 5, Err(NotFound)),
        Test(1, 0, Err(NotFound)),
        Make(1, 5, Ok(())),
        Make(1, 5, Ok(())),
        Test(1, 0, Ok(())),
        Test(1, 6, Err(NotFound)),
        Connect(1, 5, Err(NotWaiting)),
        Connect(1, 6, Err(NotFound)),
        Accept(1, 6, 10, Refuse, Err(NotFound)),
        Accept(1, 6, 10, Create, Ok(None)),
        Accept(1, 5, 11, Refuse, Ok(None)),
        Connect(1, 6, Ok(10)),
        Holds(1),
    ]);
}

#[test]
fn one_id_connect_takes_the_implicit_candidate_or_the_first_that_waits() {
    check(&[
        Make(1, 0, Ok(())),
        Connect(1, 0, Err(NotWaiting)),
        Make(1, 5, Ok(())),
        Make(1, 6, Ok(())),
        Connect(1, 0, Err(NotWaiting)),
        Accept(1, 6, 10, Refuse, Ok(None)),
        Connect(1, 0, Ok(10)),
        Connect(1, 0, Err(AlreadyConnected)),
        Accept(1, 5, 11, Refuse, Ok(None)),
        Connect(1, 0, Ok(11)),
    ]);
    check(&[
        Accept(1, 5, 10, Create, Ok(None)),
        Accept(1, 0, 11, Refuse, Ok(None)),
        Connect(1, 0, Ok(11)),
        Connect(1, 0, Ok(10)),
        Connect(1, 0, Err(AlreadyConnected)),
    ]);
    check(&[
        Accept(1, 0, 10, Create, Ok(None)),
        Gone(10, Ok(())),
        Connect(1, 0, Err(NotWaiting)),
        Accept(1, 5, 11, Create, Ok(None)),
        Connect(1, 0, Ok(11)),
    ]);
}

#[test]
fn second_acceptor_replaces_the_first_whose_handle_goes_stale() {
    check(&[
        Accept(1, 5, 10, Create, Ok(None)),
        Accept(1, 5, 11, Refuse, Ok(Some(10))),
        Gone(10, Err(Stale)),
        Connect(1, 5, Ok(11)),
        Ended(10, Err(Stale)),
        Ended(11, Ok(())),
        // The slot is used again.
        Accept(2, 5, 12, Create, Ok(None)),
        Gone(11, Err(Stale)),
        Ended(11, Err(Stale)),
        Connect(2, 5, Ok(12)),
        Ended(11, Err(Stale)),
    ]);
}

#[test]
fn association_stays_when_its_acceptor_goes() {
    check(&[
        Accept(1, 0, 10, Create, Ok(None)),
        Ended(10, Err(Stale)),
        Gone(10, Ok(())),
        Gone(10, Err(Stale)),
        Connect(1, 0, Err(NotWaiting)),
        Accept(1, 0, 11, Refuse, Ok(None)),
        Connect(1, 0, Ok(11)),
    ]);
}

#[test]
fn losers_do_not_tear_down_the_winner_and_the_last_one_closes_the_rest() {
    check(&[
        Accept(1, 5, 10, Create, Ok(None)),
        Accept(1, 6, 11, Create, Ok(None)),
        Connect(1, 5, Ok(10)),
        Connect(1, 6, Ok(11)),
        Ended(10, Ok(())),
        Connect(1, 5, Err(Refusal::Ended)),
        Accept(1, 5, 12, Refuse, Ok(None)),
        Ended(11, Ok(())),
        Holds(0),
        Deadline(Some(0)),
        Gone(12, Err(Stale)),
        Closes(vec![(12, AssociationEnded)]),
        Deadline(None),
    ]);
}

#[test]
fn explicit_associations_expire_from_creation_others_from_the_last_accept() {
    check(&[
        Make(1, 5, Ok(())),
        At(1),
        Accept(2, 0, 20, Create, Ok(None)),
        At(100),
        Accept(1, 5, 10, Refuse, Ok(None)),
        Accept(2, 0, 21, Refuse, Ok(Some(20))),
        Deadline(Some(300)),
        At(299),
        Closes(vec![]),
        Test(1, 5, Ok(())),
        At(300),
        Test(1, 5, Err(NotFound)),
        Deadline(Some(300)),
        Closes(vec![(10, Expired)]),
        Gone(10, Err(Stale)),
        Deadline(Some(400)),
        At(400),
        // Reaped by the look-up, and created anew.
        Accept(2, 0, 22, Create, Ok(None)),
        Closes(vec![(21, Expired)]),
        Deadline(Some(700)),
    ]);
}

#[test]
fn a_refused_accept_does_not_renew() {
    check(&[
        Accept(1, 5, 10, Create, Ok(None)),
        Accept(1, 6, 11, Create, Ok(None)),
        At(10),
        Accept(1, 7, 12, Create, Err(Full)),
        Accept(1, 8, 12, Refuse, Err(NotFound)),
        Deadline(Some(300)),
        At(500),
        Closes(vec![(10, Expired), (11, Expired)]),
    ]);
}

#[test]
fn a_connected_association_does_not_expire() {
    check(&[
        Make(1, 5, Ok(())),
        Accept(1, 5, 10, Refuse, Ok(None)),
        Accept(1, 6, 11, Create, Ok(None)),
        Connect(1, 5, Ok(10)),
        Deadline(None),
        At(10_000),
        Closes(vec![]),
        Accept(1, 6, 12, Refuse, Ok(Some(11))),
        Ended(10, Ok(())),
        Closes(vec![(12, AssociationEnded)]),
        Holds(0),
    ]);
}

#[test]
fn full_counts_what_is_live() {
    check(&[
        Make(1, 5, Ok(())),
        Make(1, 6, Ok(())),
        Make(1, 7, Err(Full)),
        Accept(1, 0, 10, Refuse, Err(Full)),
        At(1),
        Make(2, 0, Ok(())),
        Make(3, 0, Ok(())),
        Make(4, 0, Err(Full)),
        Accept(4, 0, 40, Create, Err(Full)),
        Accept(4, 0, 40, Refuse, Err(NotFound)),
        Accept(1, 6, 10, Refuse, Ok(None)),
        At(300),
        Accept(4, 0, 40, Create, Ok(None)),
        Make(5, 0, Err(Full)),
        Closes(vec![(10, Expired)]),
        Holds(3),
    ]);
}

#[test]
fn a_deserted_association_makes_way_when_there_is_no_room() {
    check(&[
        Make(1, 5, Ok(())),
        Accept(1, 5, 10, Refuse, Ok(None)),
        Accept(2, 0, 20, Create, Ok(None)),
        Accept(3, 0, 30, Create, Ok(None)),
        // Nobody has left, so there is no room.
        Accept(4, 0, 40, Create, Err(Full)),
        // One that was created explicitly is kept without an acceptor.
        Gone(10, Ok(())),
        Accept(4, 0, 40, Create, Err(Full)),
        At(1),
        Gone(30, Ok(())),
        Gone(20, Ok(())),
        Test(2, 0, Ok(())),
        Connect(3, 0, Err(NotWaiting)),
        // The first to be deserted goes first, and the next one after it.
        Accept(4, 0, 40, Create, Ok(None)),
        Test(3, 0, Err(NotFound)),
        Test(2, 0, Ok(())),
        Gone(30, Err(Stale)),
        Make(5, 0, Ok(())),
        Test(2, 0, Err(NotFound)),
        Closes(vec![]),
        Accept(6, 0, 60, Create, Err(Full)),
        Connect(4, 0, Ok(40)),
        Accept(6, 0, 60, Create, Err(Full)),
        Holds(3),
    ]);
}

#[test]
fn a_deserted_association_is_good_for_whoever_comes_back_in_time() {
    check(&[
        Accept(1, 5, 10, Create, Ok(None)),
        Accept(1, 6, 11, Create, Ok(None)),
        At(200),
        Gone(10, Ok(())),
        Deadline(Some(300)),
        At(299),
        // The last one has left: from now on it is deserted.
        Gone(11, Ok(())),
        Deadline(Some(599)),
        At(400),
        Accept(2, 0, 20, Create, Ok(None)),
        Accept(1, 5, 12, Refuse, Ok(None)),
        Deadline(Some(700)),
        Accept(3, 0, 30, Create, Ok(None)),
        Accept(4, 0, 40, Create, Err(Full)),
        Gone(12, Ok(())),
        // Accepting at another candidate does as well.
        Accept(1, 6, 13, Refuse, Ok(None)),
        Accept(4, 0, 40, Create, Err(Full)),
        Connect(1, 6, Ok(13)),
        Ended(13, Ok(())),
        Gone(20, Ok(())),
        At(699),
        Test(2, 0, Ok(())),
        At(700),
        Test(2, 0, Err(NotFound)),
        // It was due before its acceptor left.
        Gone(30, Ok(())),
        Test(3, 0, Err(NotFound)),
        Closes(vec![]),
        Holds(0),
    ]);
}

#[test]
fn an_association_takes_about_ninety_bytes() {
    let mut table = table(u32::MAX, 16);
    assert_eq!(table.memory_bytes(), 0);
    for n in 1..=9_000_u64 {
        let key = key(u128::from(n), 5);
        assert!(table.accept(key, n, Create, seconds(0)).is_ok());
        assert!(
            table
                .connect(key, seconds(0))
                .is_ok_and(|j| j.acceptor == n)
        );
    }
    assert!(
        table.memory_bytes() <= 9_000 * 91,
        "{}",
        table.memory_bytes()
    );
    table.invariants();
}
