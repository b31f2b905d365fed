use super::*;

const LISTEN: u32 = 1;
const CONNECT: u32 = 2;
const ACCEPT: u32 = 3;
const UPSTREAM: u32 = 4;
const DOWNSTREAM: u32 = 5;

const ID: ConnectionId = ConnectionId(*b"0123456789abcdef");
const START: Timestamp = Timestamp::from_nanos(0);

const LIMITS: SwitchboardLimits = SwitchboardLimits {
    connects_per_place_max: 2,
    connect_timeout: Duration::from_secs(30),
    accept_timeout: Duration::from_secs(10),
    join_timeout: Duration::from_secs(10),
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn place() -> Place {
    Place {
        server: name("home"),
        port: name("22"),
    }
}

fn after(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

/// A connection that a listener was told of.
fn taken() -> Switchboard<u32> {
    let mut board = Switchboard::new(LIMITS);
    assert_eq!(board.listen(&place(), LISTEN), None);
    assert_eq!(
        board.connect(ID, &place(), name("alice"), CONNECT, START),
        Ok(Some(LISTEN))
    );
    board.handle_told(ID, START);
    board
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Accept,
    Upstream,
    Downstream,
}

fn take(board: &mut Switchboard<u32>, step: Step) -> Result<(), Refusal> {
    let (server, client) = (name("home"), name("alice"));
    match step {
        Step::Accept => board
            .accept(ID, &server, ACCEPT, after(1))
            .map(|connect| assert_eq!(connect, CONNECT)),
        Step::Upstream => board.upstream(ID, &client, UPSTREAM),
        Step::Downstream => board.downstream(ID, &server, DOWNSTREAM),
    }
}

#[test]
fn a_tunnel_is_whole_in_every_order_that_there_is() {
    use Step::{Accept, Downstream, Upstream};
    for order in [
        [Accept, Upstream, Downstream],
        [Accept, Downstream, Upstream],
        // The server's two requests may overtake each other.
        [Downstream, Accept, Upstream],
    ] {
        let mut board = taken();
        for step in order {
            assert_eq!(board.take_whole(ID), None, "{order:?} before {step:?}");
            assert_eq!(take(&mut board, step), Ok(()), "{order:?}");
            // Each once.
            let used = match board.tunnels_count() {
                0 => Err(Refusal::NotFound),
                _ => Err(Refusal::Used),
            };
            assert_eq!(take(&mut board, step), used, "{order:?}");
        }
        let whole = Whole {
            place: place(),
            client: name("alice"),
            connect: CONNECT,
            upstream: UPSTREAM,
            accept: ACCEPT,
            downstream: DOWNSTREAM,
        };
        assert_eq!(board.take_whole(ID), Some(whole), "{order:?}");
        assert_eq!((board.tunnels_count(), board.next_deadline()), (0, None));
    }
    let mut board = taken();
    assert_eq!(
        take(&mut board, Upstream),
        Err(Refusal::NotFound),
        "the client cannot know the id yet"
    );
}

#[test]
fn an_id_is_good_for_its_server_and_its_client_alone() {
    let mut board = taken();
    let (stranger, other) = (name("lab"), ConnectionId([0; 16]));
    assert_eq!(
        board.accept(ID, &stranger, 9, START),
        Err(Refusal::NotFound)
    );
    assert_eq!(board.reject(ID, &stranger), Err(Refusal::NotFound));
    assert_eq!(board.downstream(ID, &stranger, 9), Err(Refusal::NotFound));
    assert_eq!(
        board.accept(other, &name("home"), 9, START),
        Err(Refusal::NotFound)
    );
    assert_eq!(take(&mut board, Step::Accept), Ok(()));
    assert_eq!(board.upstream(ID, &name("bob"), 9), Err(Refusal::NotFound));
    assert_eq!(board.reject(ID, &name("home")), Err(Refusal::Used));
    assert_eq!(take(&mut board, Step::Upstream), Ok(()));
}

#[test]
fn who_comes_first_is_served_first_on_either_side() {
    let mut board = Switchboard::new(LIMITS);
    let ids: Vec<_> = (0..3).map(|byte| ConnectionId([byte; 16])).collect();
    for (id, connect) in ids.iter().zip(20..) {
        let outcome = board.connect(*id, &place(), name("alice"), connect, START);
        let expected = match connect {
            22 => Err(Refusal::Busy),
            _ => Ok(None),
        };
        assert_eq!(outcome, expected);
    }
    assert_eq!(board.listen(&place(), 10), Some(ids[0]));
    // Nobody may take what was offered to nobody.
    assert_eq!(
        board.accept(ids[1], &name("home"), 9, START),
        Err(Refusal::NotFound)
    );
    assert_eq!(board.listen(&place(), 11), Some(ids[1]));
    for listener in [12, 13, 14] {
        assert_eq!(board.listen(&place(), listener), None);
    }
    board.stop_listening(&place(), 12);
    let next = board.connect(ids[2], &place(), name("alice"), 22, START);
    assert_eq!(next, Ok(Some(13)));
    // It had gone: the next one is told, and then nobody is there.
    assert_eq!(board.handle_not_told(ids[2]), Some(14));
    assert_eq!(board.handle_not_told(ids[2]), None);
    assert_eq!(board.handle_not_told(ids[0]), None);
    // What waits again is before what came later.
    assert_eq!(board.listen(&place(), 15), Some(ids[0]));
    assert_eq!(board.listen(&place(), 16), Some(ids[2]));
    assert_eq!(board.listen(&place(), 17), None);
    board.stop_listening(&place(), 17);
    assert!(board.places.is_empty());
}

#[test]
fn whoever_is_late_ends_what_was_begun() {
    let mut board = Switchboard::new(LIMITS);
    assert_eq!(
        board.connect(ID, &place(), name("alice"), CONNECT, START),
        Ok(None)
    );
    assert_eq!(board.next_deadline(), Some(after(30)));
    assert_eq!(board.poll_late(after(29)), None);
    let not_accepted = Late::NotAccepted {
        connect: CONNECT,
        downstream: None,
    };
    assert_eq!(board.poll_late(after(30)), Some(not_accepted.clone()));
    assert_eq!(board.poll_late(after(30)), None);
    assert_eq!(
        board.listen(&place(), LISTEN),
        None,
        "nobody waits any more"
    );

    // Of a server that takes its time, when the client has none any more.
    let mut board = taken();
    assert_eq!(board.next_deadline(), Some(after(10)));
    assert_eq!(board.poll_late(after(30)), Some(not_accepted));
    assert_eq!(take(&mut board, Step::Accept), Err(Refusal::NotFound));

    let mut board = taken();
    assert_eq!(take(&mut board, Step::Accept), Ok(()));
    assert_eq!(take(&mut board, Step::Upstream), Ok(()));
    assert_eq!(board.next_deadline(), Some(after(11)));
    // It had been told already, and says so late.
    board.handle_told(ID, after(9));
    let all = vec![CONNECT, ACCEPT, UPSTREAM];
    assert_eq!(board.poll_late(after(11)), Some(Late::NotWhole(all)));
}

#[test]
fn what_is_not_accepted_is_offered_to_another_under_another_id() {
    let home = name("home");
    let again = |board: &mut Switchboard<u32>, id, until| {
        board.connect_again(id, &place(), name("alice"), CONNECT, until)
    };
    let not_taken = |downstream| {
        Some(Late::NotTaken {
            connect: CONNECT,
            downstream,
            until: after(30),
        })
    };
    let [second, third, later] = [1, 2, 3].map(|byte| ConnectionId([byte; 16]));
    let mut board = taken();
    assert_eq!(take(&mut board, Step::Downstream), Ok(()));
    for listener in [11, 12] {
        assert_eq!(board.listen(&place(), listener), None);
    }
    assert_eq!(board.poll_late(after(9)), None);
    assert_eq!(board.poll_late(after(10)), not_taken(Some(DOWNSTREAM)));
    assert_eq!((board.tunnels_count(), board.next_deadline()), (0, None));
    // The listener that came last is told, and it alone.
    assert_eq!(again(&mut board, second, after(30)), Some(12));
    assert_eq!(board.next_deadline(), Some(after(30)));
    board.handle_told(second, after(10));
    // The first one was only slow: it is nobody's any more.
    for step in [Step::Accept, Step::Downstream] {
        assert_eq!(take(&mut board, step), Err(Refusal::NotFound), "{step:?}");
    }
    assert_eq!(board.reject(ID, &home), Err(Refusal::NotFound));

    // Nobody takes it either: it waits before what came later, whatever the limit.
    board.stop_listening(&place(), 11);
    for (id, byte) in [(later, 23), (ID, 24)] {
        let waits = board.connect(id, &place(), name("alice"), byte, after(11));
        assert_eq!(waits, Ok(None));
    }
    assert_eq!(board.poll_late(after(20)), not_taken(None));
    assert_eq!(again(&mut board, third, after(30)), None);
    assert_eq!(board.accept(third, &home, 9, START), Err(Refusal::NotFound));
    assert_eq!(board.listen(&place(), 13), Some(third));
    board.handle_told(third, after(29));
    assert_eq!(board.listen(&place(), 14), Some(later));
    assert_eq!(board.accept(third, &home, ACCEPT, after(38)), Ok(CONNECT));
    let tally = board.tally();
    assert_eq!((tally.asked, tally.offered_again), (3, 2));

    // Of one that was offered once, and then to nobody, it is said so.
    let mut board = taken();
    assert_eq!(board.poll_late(after(10)), not_taken(None));
    assert_eq!(again(&mut board, second, after(30)), None);
    let late = board.poll_late(after(30));
    assert!(matches!(late, Some(Late::NotAccepted { .. })), "{late:?}");
    let tally = board.tally();
    assert_eq!((tally.not_accepted, tally.not_offered), (1, 0));
    assert!(board.places.is_empty());
}

#[test]
fn whoever_goes_takes_the_others_with_it() {
    for (gone, others) in [
        (CONNECT, vec![ACCEPT, DOWNSTREAM]),
        (ACCEPT, vec![CONNECT, DOWNSTREAM]),
        (DOWNSTREAM, vec![CONNECT, ACCEPT]),
    ] {
        let mut board = taken();
        assert_eq!(take(&mut board, Step::Downstream), Ok(()));
        assert_eq!(take(&mut board, Step::Accept), Ok(()));
        assert_eq!(board.withdraw(ID, gone), others);
        assert!(board.withdraw(ID, gone).is_empty());
        assert_eq!(take(&mut board, Step::Upstream), Err(Refusal::NotFound));
        assert_eq!((board.tunnels_count(), board.next_deadline()), (0, None));
    }
    // Of those that wait for a listener as well.
    let mut board = Switchboard::new(LIMITS);
    board
        .connect(ID, &place(), name("alice"), CONNECT, START)
        .unwrap();
    assert!(board.withdraw(ID, CONNECT).is_empty());
    assert!(board.places.is_empty());

    let mut board = taken();
    assert_eq!(board.reject(ID, &name("home")), Ok(CONNECT));
    assert_eq!(take(&mut board, Step::Accept), Err(Refusal::NotFound));
}

#[test]
fn limits_that_change_hold_for_whoever_comes_next() {
    let mut board = Switchboard::new(LIMITS);
    let connect = |board: &mut Switchboard<u32>, byte| {
        let id = ConnectionId([byte; 16]);
        board.connect(id, &place(), name("alice"), u32::from(byte), START)
    };
    assert_eq!(connect(&mut board, 1), Ok(None));
    board.set_limits(SwitchboardLimits {
        connects_per_place_max: 1,
        connect_timeout: Duration::from_secs(5),
        ..LIMITS
    });
    assert_eq!(connect(&mut board, 2), Err(Refusal::Busy));
    assert_eq!(board.next_deadline(), Some(after(30)), "as it began");
    assert!(board.withdraw(ConnectionId([1; 16]), 1).is_empty());
    assert_eq!(connect(&mut board, 2), Ok(None));
    assert_eq!(board.next_deadline(), Some(after(5)));
}

#[test]
fn each_connection_that_was_asked_for_comes_to_something() {
    let mut board = Switchboard::new(LIMITS);
    let at = place();
    let connect = |board: &mut Switchboard<u32>, byte| {
        let id = ConnectionId([byte; 16]);
        board
            .connect(id, &at, name("alice"), u32::from(byte), START)
            .unwrap();
        id
    };
    let census = |listens_waiting, connects_waiting| TunnelCensus {
        listens_waiting,
        connects_waiting,
    };
    // One that is refused was not let wait.
    let (never_offered, gone) = (connect(&mut board, 1), connect(&mut board, 2));
    let busy = board.connect(ID, &at, name("alice"), 3, START);
    assert_eq!(busy, Err(Refusal::Busy));
    assert_eq!(board.census(), census(0, 2));
    assert_eq!(board.places().collect::<Vec<_>>(), [(&at, [0, 2])]);
    assert!(board.withdraw(gone, 2).is_empty());
    assert!(board.poll_late(after(30)).is_some());
    assert!(board.withdraw(never_offered, 1).is_empty());

    for listener in 10..14 {
        assert_eq!(board.listen(&at, listener), None);
    }
    assert_eq!(board.census(), census(4, 0));
    assert_eq!(board.places().collect::<Vec<_>>(), [(&at, [4, 0])]);
    let home = name("home");
    let ids: Vec<_> = (4..8).map(|byte| connect(&mut board, byte)).collect();
    assert_eq!(board.census(), census(0, 4));
    assert_eq!(board.reject(ids[0], &home), Ok(4));
    for id in [ids[1], ids[2]] {
        board.accept(id, &home, ACCEPT, after(1)).unwrap();
    }
    board.downstream(ids[1], &home, DOWNSTREAM).unwrap();
    board.upstream(ids[1], &name("alice"), UPSTREAM).unwrap();
    assert!(board.take_whole(ids[1]).is_some());
    while board.poll_late(after(30)).is_some() {}
    let tally = TunnelTally {
        asked: 6,
        offered_again: 0,
        accepted: 2,
        rejected: 1,
        not_offered: 1,
        not_accepted: 1,
        broken: 2,
        whole: 1,
    };
    assert_eq!((board.tally(), board.census()), (tally, census(0, 0)));
    let [(_, asked), _, _, others @ ..] = tally.named();
    let others: u64 = others.iter().map(|(_, count)| count).sum();
    assert_eq!(asked, others);
}

#[test]
fn a_place_is_served_while_somebody_listens_and_for_a_moment_after() {
    let mut board = Switchboard::new(LIMITS);
    assert!(!board.is_served(&place(), START));
    assert_eq!(board.listen(&place(), LISTEN), None);
    assert!(board.is_served(&place(), START));
    board.stop_listening(&place(), LISTEN);
    assert!(!board.is_served(&place(), START));
    board.note_listened(&place(), START);
    assert!(board.is_served(&place(), after(4)));
    assert!(!board.is_served(&place(), after(5)));
    let other = Place {
        port: name("80"),
        ..place()
    };
    // What was noted is forgotten.
    board.note_listened(&other, after(6));
    assert_eq!(board.listened.len(), 1);
    // Whoever is told is about to listen again.
    assert_eq!(board.listen(&place(), LISTEN), None);
    let told = board.connect(ID, &place(), name("alice"), CONNECT, after(7));
    assert_eq!(told, Ok(Some(LISTEN)));
    assert!(board.is_served(&place(), after(8)));
}
