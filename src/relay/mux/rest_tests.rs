//! What becomes of what a client has said before its end, when it has done with the channel, or
//! its tunnel is gone.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::server_tests::{CONNECT_7, Spoken};
use super::tests::STUCK;
use super::*;

const DATA_BYTES: usize = 1000;
const END_7: &[u8] = b"\x29\x07\0\x02";

/// A block that decrypts to nothing.
const GARBAGE: [u8; 17] = [1; 17];

impl Spoken {
    /// A channel with the number 7; gives it, and whom it leads to.
    fn joined(&mut self) -> (Key, UnixStream) {
        let (channel, origin) = self.join(CONNECT_7);
        origin.set_nonblocking(true).expect("set");
        (channel, origin)
    }

    fn say_data(&mut self) {
        let mut packet = b"\x15\x07\0\xe8\x03".to_vec();
        packet.extend_from_slice(&[7; DATA_BYTES]);
        assert!(self.say(&packet).is_empty());
    }

    /// Until its end takes no more, and more; gives how many bytes that are.
    fn fill(&mut self, channel: Key) -> usize {
        for count in 1..10_000 {
            self.say_data();
            let queued = self.server.channels.get(channel).map(Channel::queued_bytes);
            if queued > Some(20 * DATA_BYTES) {
                return count * DATA_BYTES;
            }
        }
        panic!("it takes everything");
    }

    fn run_at(&mut self, now: Timestamp, channel: Key) -> Vec<MuxEvent> {
        for readiness in [Readiness::READABLE, Readiness::WRITABLE] {
            self.server.handle_channel(channel.index, readiness);
        }
        self.server.run(now);
        self.server.check_invariants();
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }
}

fn ended(events: &[MuxEvent]) -> (CloseReason, Option<How>) {
    let ended = events.iter().find_map(|event| match event {
        MuxEvent::Ended(ended) => Some((ended.reason, ended.socket.as_ref().map(|it| it.1))),
        _ => None,
    });
    ended.unwrap_or_else(|| panic!("no end: {events:?}"))
}

fn read_some(stream: &mut UnixStream) -> usize {
    let mut count = 0;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return count,
            Ok(read) => count += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The tunnel ends, in order or not.
fn end(spoken: &mut Spoken, is_in_order: bool) -> Vec<MuxEvent> {
    match is_in_order {
        true => {
            spoken.stream.shutdown(Shutdown::Write).expect("shut");
            spoken.say_raw(&[])
        }
        false => spoken.say_raw(&GARBAGE),
    }
}

#[test]
fn what_an_end_has_taken_is_no_break_however_the_tunnel_ends() {
    for is_in_order in [true, false] {
        let mut spoken = Spoken::new(Dialect::Spec);
        let (_, _origin) = spoken.joined();
        spoken.say_data();
        assert!(spoken.say(END_7).is_empty());
        let finished = (CloseReason::Finished(Side::Left), Some(How::Parting));
        assert_eq!(ended(&end(&mut spoken, is_in_order)), finished);
    }
}

#[test]
fn what_waits_for_an_end_is_delivered_however_the_tunnel_ends() {
    for is_in_order in [true, false] {
        let mut spoken = Spoken::new(Dialect::Spec);
        let (channel, mut origin) = spoken.joined();
        let said = spoken.fill(channel);
        assert!(spoken.say(END_7).is_empty());
        let events = end(&mut spoken, is_in_order);
        assert!(matches!(events[..], [MuxEvent::Lost(_)]), "{events:?}");
        assert_eq!((spoken.server.tunnels(), spoken.server.channels()), (0, 1));
        let mut came = 0;
        let mut events = Vec::new();
        while events.is_empty() {
            let more = read_some(&mut origin);
            assert!(more > 0, "after {came} of {said}");
            came += more;
            events = spoken.run_at(Timestamp::default(), channel);
        }
        let finished = (CloseReason::Finished(Side::Left), Some(How::Parting));
        assert_eq!(ended(&events), finished);
        assert_eq!(came + read_some(&mut origin), said);
    }
}

#[test]
fn an_end_takes_the_rest_in_time_or_is_given_up() {
    let mut spoken = Spoken::new(Dialect::Spec);
    let (channel, _origin) = spoken.joined();
    spoken.fill(channel);
    assert!(spoken.say(END_7).is_empty());
    end(&mut spoken, true);
    let early = Timestamp::default() + (REST_TIMEOUT - STUCK);
    assert!(spoken.run_at(early, channel).is_empty());
    let due = spoken
        .server
        .next_deadline()
        .expect("it is looked at again");
    let events = spoken.run_at(due.max(Timestamp::default() + REST_TIMEOUT), channel);
    let timed_out = (CloseReason::TimedOut(Side::Right), Some(How::Reset));
    assert_eq!(ended(&events), timed_out);
    assert_eq!(spoken.server.counts().stuck, 1);
    assert_eq!(spoken.server.next_deadline(), None);
}

#[test]
fn of_a_channel_whose_number_is_used_again_nothing_is_said() {
    for reason in [0, 2] {
        let mut spoken = Spoken::new(Dialect::Spec);
        let (channel, mut origin) = spoken.joined();
        let said = spoken.fill(channel);
        assert!(spoken.say(&[0x29, 7, 0, reason]).is_empty());
        let events = spoken.say(CONNECT_7);
        assert!(matches!(events[..], [MuxEvent::Asked { .. }]), "{events:?}");
        // It says something that nobody reads.
        std::io::Write::write_all(&mut origin, b"too late").expect("sent");
        let mut came = 0;
        let mut events = Vec::new();
        while events.is_empty() {
            came += read_some(&mut origin);
            events = spoken.run_at(Timestamp::default(), channel);
        }
        let finished = (CloseReason::Finished(Side::Left), Some(How::Parting));
        assert_eq!(ended(&events), finished, "{reason}");
        assert_eq!(came + read_some(&mut origin), said);
        assert_eq!(spoken.heard(), (vec![], false));
    }
}

#[test]
fn a_connect_that_holds_up_its_tunnel_is_answered() {
    let mut spoken = Spoken::new(Dialect::Spec);
    let channel = spoken.asked(CONNECT_7);
    for _ in 0..=QUEUE_BYTES_MAX / DATA_BYTES {
        spoken.say_data();
    }
    let events = spoken.run_at(Timestamp::default() + STUCK, channel);
    assert_eq!(ended(&events), (CloseReason::TimedOut(Side::Right), None));
    let (packets, _) = spoken.heard();
    assert_eq!(packets.len(), 1);
    // Connected, 7, timed out.
    assert_eq!(packets[0][..4], [0x01, 7, 0, 2], "{packets:?}");
}

#[test]
fn a_channel_that_may_last_no_longer_is_no_end_in_order() {
    let mut spoken = Spoken::new(Dialect::Spec);
    let (channel, _origin) = spoken.joined();
    spoken.server.give_up(channel, CloseReason::Expired);
    let (packets, _) = spoken.heard();
    assert_eq!(packets, [b"\x29\x07\0\x03"], "timed out");
}
