//! The tunnels of one shard that are whole: who has them, what ends them when they are silent,
//! and their line of the log.
//!
//! A tunnel is two sessions, one for each way, whose numbers differ in the lowest bit. Of each
//! way's session the left leg is who sends; of the tunnel, left is the client and right the
//! server. What breaks one way breaks the other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ahash::RandomState;

use super::peer_address::PeerAddress;
use super::rendezvous::RelayService;
use super::session_log::TunnelEnded;
use super::sessions::Origin;
use super::sever::sever;
use super::status::{SESSIONS_TOLD_MAX, TunnelStatus};
use super::streams::StreamSession;
use crate::association::idle::Idleness;
use crate::protocol::ptth_http::{Name, Place};
use crate::protocol::ptth_quic::{Refusal, StreamCode};
use crate::relay::{CloseReason, Side};
use crate::runtime::clock;
use crate::slab::Key;
use crate::time::Timestamp;

/// Which way a session of a tunnel goes, in the lowest bit of its number.
const DOWN: u32 = 1;

/// A tunnel, from when it is whole to its end.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) client: Name,
    pub(super) place: Place,
    /// The client's and the server's.
    pub(super) peers: [PeerAddress; 2],
    /// When the client asked for it.
    pub(super) waiting_since: Timestamp,
    pub(super) joined_at: Timestamp,
    /// Its client's stream has the line of the log, and its place among what runs.
    pub(super) is_told_elsewhere: bool,
}

/// Where a tunnel goes on as a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seam {
    pub(super) pair: Key,
    /// The seam's side of that pair.
    pub(super) side: Side,
    /// The tunnel's way to the stream.
    pub(super) to_stream: u32,
}

/// Those that run.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    /// By the number of the way up.
    running: RefCell<HashMap<u32, Running, RandomState>>,
    last: Cell<u32>,
    idleness: RefCell<Idleness<u32>>,
    /// Of those of which one way has ended.
    half_idleness: RefCell<Idleness<u32>>,
}

#[derive(Debug)]
struct Running {
    tunnel: Tunnel,
    seam: Option<Seam>,
    /// The way that has ended already.
    first: Option<WayEnded>,
}

/// How one way came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WayEnded {
    number: u32,
    reason: CloseReason,
    bytes: u64,
}

impl Tunnels {
    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.running.borrow().len()
    }

    /// When to look for silent ones next.
    pub(super) fn next_look(&self) -> Option<Timestamp> {
        let looks = [&self.idleness, &self.half_idleness];
        let looks = looks.map(|idleness| idleness.borrow().next_look());
        looks.into_iter().flatten().min()
    }

    /// Begins one. No two that run have the same number, although numbers begin anew.
    fn insert(&self, tunnel: Tunnel) -> u32 {
        let mut running = self.running.borrow_mut();
        let mut number = self.last.get().wrapping_add(2);
        while running.contains_key(&number) {
            number = number.wrapping_add(2);
        }
        self.last.set(number);
        let one = Running {
            tunnel,
            seam: None,
            first: None,
        };
        running.insert(number, one);
        number
    }

    /// The tunnel with this way up goes on as a stream.
    pub(super) fn set_seam(&self, number: u32, seam: Seam) {
        if let Some(running) = self.running.borrow_mut().get_mut(&number) {
            running.seam = Some(seam);
        }
    }

    fn seam_of(&self, way: u32) -> Option<Seam> {
        self.running.borrow().get(&(way & !DOWN))?.seam
    }

    /// One way has ended. Gives the tunnel with both once they have.
    fn end_way(&self, ended: WayEnded) -> Option<(Tunnel, [WayEnded; 2])> {
        let mut running = self.running.borrow_mut();
        let number = ended.number & !DOWN;
        let first = &mut running.get_mut(&number)?.first;
        match *first {
            None => {
                *first = Some(ended);
                None
            }
            Some(first) => {
                let Running { tunnel, .. } = running.remove(&number)?;
                Some((tunnel, [first, ended]))
            }
        }
    }
}

impl WayEnded {
    /// Why, as the tunnel's client and server have it.
    fn reason_of_tunnel(self) -> CloseReason {
        match self.number & DOWN {
            DOWN => self.reason.mirrored(),
            _ => self.reason,
        }
    }

    /// What broke it. That the other way had broken is told by that way.
    fn breaks(self) -> bool {
        !matches!(self.reason, CloseReason::Finished(_) | CloseReason::Severed)
    }
}

/// Why a tunnel ended whose ways have ended so, in this order.
fn reason(ways: [WayEnded; 2]) -> CloseReason {
    let [first, second] = ways;
    let broken = ways.into_iter().find(|way| way.breaks());
    let severed = (second.reason == CloseReason::Severed).then_some(second);
    broken.or(severed).unwrap_or(first).reason_of_tunnel()
}

impl RelayService {
    /// A tunnel is whole. Gives the number of its way up; that of its way down follows.
    pub(super) fn begin_tunnel(&self, tunnel: Tunnel) -> u32 {
        let tunnels = &self.forwards.tunnels;
        if let Some(limit) = self.tunnel_idle() {
            let mut idleness = tunnels.idleness.borrow_mut();
            idleness.begin(limit, self.world.reactor.now());
        }
        tunnels.insert(tunnel)
    }

    /// One way of a tunnel has ended, or did not begin.
    pub(super) fn end_way(self: &Rc<Self>, number: u32, reason: CloseReason, bytes: [u64; 2]) {
        let tunnels = &self.forwards.tunnels;
        if let Some(seam) = tunnels.seam_of(number) {
            self.tell_seam(seam, number, reason);
        }
        let ended = WayEnded {
            number,
            reason,
            // The other leg only hears.
            bytes: bytes[0],
        };
        if let Some((tunnel, ways)) = tunnels.end_way(ended) {
            if !tunnel.is_told_elsewhere {
                log(&tunnel, ways);
            }
            return;
        }
        if matches!(reason, CloseReason::Finished(_)) {
            if let Some(limit) = self.settings().forwarding_limits.half_closed {
                let mut idleness = tunnels.half_idleness.borrow_mut();
                idleness.begin(limit, self.world.reactor.now());
            }
            return;
        }
        sever(&self.world, Origin::Forwarded(number ^ DOWN));
    }

    /// Tells the stream with which a tunnel goes on how one of its ways has ended.
    fn tell_seam(&self, seam: Seam, way: u32, reason: CloseReason) {
        let streams = &self.world.streams;
        match reason {
            CloseReason::Finished(_) if way == seam.to_stream => {
                streams.handle_word(seam.pair, seam.side);
            }
            CloseReason::Finished(_) => {}
            _ => {
                let (reason, code) = over_seam(reason, seam.side);
                streams.break_off(seam.pair, reason, code);
            }
        }
    }

    /// What is joined with a tunnel's other side has ended, whose socket is still open.
    pub(super) fn end_seam(&self, session: &StreamSession, reason: CloseReason) {
        let seam = session
            .tunnel
            .and_then(|it| self.forwards.tunnels.seam_of(it));
        let Some(Seam { to_stream, .. }) = seam else {
            return;
        };
        let end = |way, reason| {
            let way = Origin::Forwarded(way);
            self.world.end_sessions(reason, |session| *session == way);
        };
        match reason.ended_by() {
            _ if matches!(reason, CloseReason::Finished(_)) => {}
            Some(_) => {
                end(to_stream, CloseReason::Reset(Side::Right));
                end(to_stream ^ DOWN, CloseReason::Reset(Side::Left));
            }
            None => {
                end(to_stream, reason);
                end(to_stream ^ DOWN, reason);
            }
        }
    }

    /// Ends tunnels that have carried nothing for as long as they may.
    pub(super) fn end_silent_tunnels(&self, now: Timestamp) {
        let half_closed = self.settings().forwarding_limits.half_closed;
        let tunnels = &self.forwards.tunnels;
        self.end_silent(&tunnels.idleness, self.tunnel_idle(), |_| true, now);
        let is_half = |one: &Running| one.first.is_some();
        self.end_silent(&tunnels.half_idleness, half_closed, is_half, now);
    }

    fn end_silent(
        &self,
        idleness: &RefCell<Idleness<u32>>,
        limit: Option<Duration>,
        is_meant: impl Fn(&Running) -> bool,
        now: Timestamp,
    ) {
        let mut idleness = idleness.borrow_mut();
        if idleness.next_look().is_none_or(|due| due > now) {
            return;
        }
        let carried = self.carried_by_tunnels(is_meant).into_iter();
        let carried = carried.map(|(number, [up, down])| (number, up + down));
        let silent = idleness.look(carried, limit, now).into_iter();
        let ways = silent.flat_map(|number| [number, number | DOWN].map(Origin::Forwarded));
        self.expire(ways.collect());
    }

    /// For how long a tunnel may carry nothing: as a session, and as a tunnel.
    fn tunnel_idle(&self) -> Option<Duration> {
        let settings = self.settings();
        let limits = [settings.session_idle, settings.forwarding_limits.idle];
        limits.into_iter().flatten().min()
    }

    /// The bytes that tunnels have carried, up and down, by their number.
    fn carried_by_tunnels(
        &self,
        is_meant: impl Fn(&Running) -> bool,
    ) -> HashMap<u32, [u64; 2], RandomState> {
        let running = self.forwards.tunnels.running.borrow();
        let meant = running.iter().filter(|(_, one)| is_meant(one));
        let mut carried: HashMap<_, _, _> = meant
            .map(|(number, one)| {
                let mut bytes = [0; 2];
                if let Some(first) = one.first {
                    bytes[way_index(first.number)] = first.bytes;
                }
                (*number, bytes)
            })
            .collect();
        let way = |session: &Origin| match session {
            Origin::Forwarded(number) => carried.contains_key(&(number & !DOWN)),
            _ => false,
        };
        for (session, bytes) in self.world.sessions(way) {
            if let Origin::Forwarded(number) = session.context
                && let Some(carried) = carried.get_mut(&(number & !DOWN))
            {
                carried[way_index(number)] = bytes[0];
            }
        }
        carried
    }

    /// The tunnels that run, as far as they are told.
    pub(super) fn tunnel_statuses(&self) -> Vec<TunnelStatus> {
        let carried = self.carried_by_tunnels(|_| true);
        let running = self.forwards.tunnels.running.borrow();
        let status = |(number, bytes): (u32, [u64; 2])| {
            let Tunnel {
                client,
                place,
                peers,
                joined_at,
                is_told_elsewhere: false,
                ..
            } = &running.get(&number)?.tunnel
            else {
                return None;
            };
            Some(TunnelStatus {
                client: client.clone(),
                place: place.clone(),
                peers: *peers,
                bytes,
                lasted: clock::now().since(*joined_at),
            })
        };
        let told = carried.into_iter().take(SESSIONS_TOLD_MAX);
        told.filter_map(status).collect()
    }
}

/// How something that was broken off looks from the other side of a seam, at this side of its
/// pair.
fn over_seam(reason: CloseReason, side: Side) -> (CloseReason, StreamCode) {
    let code = match reason {
        CloseReason::Expired => Refusal::LimitReached.into(),
        CloseReason::Drained => StreamCode::SHUTDOWN,
        _ => StreamCode::RESET,
    };
    match reason.ended_by() {
        Some(_) => (CloseReason::Reset(side), code),
        None => (reason, code),
    }
}

const fn way_index(number: u32) -> usize {
    (number & DOWN) as usize
}

fn log(tunnel: &Tunnel, ways: [WayEnded; 2]) {
    let mut bytes = [0; 2];
    for way in ways {
        bytes[way_index(way.number)] = way.bytes;
    }
    let ended = TunnelEnded {
        client: &tunnel.client,
        place: &tunnel.place,
        peers: tunnel.peers,
        bytes,
        waiting_since: tunnel.waiting_since,
        joined_at: tunnel.joined_at,
        reason: reason(ways),
    };
    ended.log();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Side::{Left, Right};

    fn tunnel() -> Tunnel {
        Tunnel {
            client: "alice".parse().unwrap(),
            place: Place {
                server: "home".parse().unwrap(),
                port: "22".parse().unwrap(),
            },
            peers: [PeerAddress::UNKNOWN; 2],
            waiting_since: Timestamp::default(),
            joined_at: Timestamp::default(),
            is_told_elsewhere: false,
        }
    }

    fn ended(number: u32, reason: CloseReason) -> WayEnded {
        WayEnded {
            number,
            reason,
            bytes: 0,
        }
    }

    #[test]
    fn no_two_that_run_have_the_same_number() {
        let tunnels = Tunnels::default();
        let first = tunnels.insert(tunnel());
        assert_eq!(first & DOWN, 0);
        tunnels.last.set(first.wrapping_sub(2));
        let second = tunnels.insert(tunnel());
        assert_eq!((second, tunnels.count()), (first + 2, 2));
        // Over the end of the numbers.
        tunnels.last.set(u32::MAX - 1);
        assert_eq!(tunnels.insert(tunnel()), 0);
        tunnels.last.set(u32::MAX - 1);
        let next = tunnels.insert(tunnel());
        assert_eq!((next, tunnels.count()), (second + 2, 4));
        for way in [first, first | DOWN] {
            let is_over = tunnels.end_way(ended(way, CloseReason::Drained));
            assert_eq!(is_over.is_some(), way & DOWN == DOWN);
        }
        assert_eq!(tunnels.count(), 3);
        tunnels.last.set(first.wrapping_sub(2));
        assert_eq!(tunnels.insert(tunnel()), first);
    }

    #[test]
    fn a_tunnel_ended_for_what_broke_first_or_else_with_its_first_end() {
        use CloseReason::{Expired, Finished, Reset, Severed};
        let check = |ways: [(u32, CloseReason); 2], expected| {
            let ways = ways.map(|(number, reason)| ended(number, reason));
            assert_eq!(reason(ways), expected, "{ways:?}");
        };
        check([(2, Finished(Left)), (3, Finished(Left))], Finished(Left));
        // The server's end came first.
        check([(3, Finished(Left)), (2, Finished(Left))], Finished(Right));
        check([(2, Finished(Left)), (3, Reset(Left))], Reset(Right));
        check([(3, Reset(Right)), (2, Severed)], Reset(Left));
        check([(2, Reset(Right)), (3, Severed)], Reset(Right));
        check([(2, Reset(Left)), (3, Reset(Left))], Reset(Left));
        check([(2, Expired), (3, Expired)], Expired);
        check([(2, Finished(Left)), (3, Expired)], Expired);
        // A way that did not begin.
        check([(2, Severed), (3, Severed)], Severed);
        check([(3, Finished(Left)), (2, Severed)], Severed);
    }
}
