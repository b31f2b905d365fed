//! Who waits for whom: the tunnels that are not whole yet, as one shard sees them.
//!
//! ```text
//!   connect ── waits ── offered ── taken ── accepted ── whole
//!                ^  a listener is told  │       │  upstream, downstream
//!                └──── not accepted ────┤       │
//!                                       └───────┴── too late: 504, or the end of all
//! ```
//!
//! A listener that is told may be nobody any more: what it does not accept in time is offered to
//! another one, under a fresh id, so that nothing of the first comes to the second's tunnel.
//!
//! `W` is the caller's handle of a request that waits. Whoever is given back has to be told;
//! who has gone has to be withdrawn. Names were checked before: a server and a client are
//! whom their keys say.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use thiserror::Error;

use super::connection_id::ConnectionId;
use super::tally::{TunnelCensus, TunnelTally};
use crate::protocol::ptth_name::Name;
use crate::time::Timestamp;

/// One port of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whose.
    pub server: Name,
    /// Which, by the server's own name for it.
    pub port: Name,
}

impl Place {
    /// What tells which shard of a relay it belongs to.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        place_key(&self.server, &self.port)
    }
}

/// As [`Place::key`].
#[must_use]
pub fn place_key(server: &Name, port: &Name) -> Vec<u8> {
    format!("{server}/{port}").into_bytes()
}

/// How many may wait, and for how long. They hold for whoever comes, or is told, next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchboardLimits {
    /// Connections that wait at one place for a listener.
    pub connects_per_place_max: usize,
    /// How long a client waits until its connection is accepted.
    pub connect_timeout: Duration,
    /// How long a server may take to accept what it was offered, before another one is.
    pub accept_timeout: Duration,
    /// How long the other requests may take once it has accepted.
    pub join_timeout: Duration,
}

/// Within what time a server that has been answered listens again, or is away.
const LISTENS_AGAIN_TIME: Duration = Duration::from_secs(5);

/// All tunnels of a shard that are not whole yet, and who waits for one.
#[derive(Debug)]
pub struct Switchboard<W> {
    limits: SwitchboardLimits,
    tally: TunnelTally,
    places: HashMap<Place, Waiters<W>>,
    tunnels: HashMap<ConnectionId, Tunnel<W>>,
    /// When somebody last ceased to listen there.
    listened: HashMap<Place, Timestamp>,
    next_tidying: Timestamp,
    /// INVARIANT: each tunnel's, and no others.
    deadlines: BTreeSet<(Timestamp, u64, [u8; 16])>,
    /// So that deadlines of the same time are in order.
    begun: u64,
}

/// The four requests of a tunnel. Whoever speaks no HTTP has one handle for both of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole<W> {
    /// Where.
    pub place: Place,
    /// Whose.
    pub client: Name,
    /// Whose answer is what the server sends.
    pub connect: W,
    /// Whose body is what the client sends.
    pub upstream: W,
    /// Whose answer is what the client sends.
    pub accept: W,
    /// Whose body is what the server sends.
    pub downstream: W,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no such tunnel, or it is not the caller's, which looks the same: 404.
    #[error("no such connection")]
    NotFound,
    /// That part of it is taken: 409.
    #[error("this part of the connection is in use")]
    Used,
    /// As many wait there as may: 503.
    #[error("too many connections wait for this port")]
    Busy,
}

/// What became of a tunnel that did not become whole in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Late<W> {
    /// The server that was told did not accept it, and its id is good for nothing any more. Its
    /// client has time: see [`Switchboard::connect_again`].
    NotTaken {
        /// The client's request.
        connect: W,
        /// That of the server.
        downstream: Option<W>,
        /// How long the client waits.
        until: Timestamp,
    },
    /// Nobody accepted it: its client is told so.
    NotAccepted {
        /// The client's request.
        connect: W,
        /// A server that may not have heard of it yet.
        downstream: Option<W>,
    },
    /// Some request did not come: these are to be ended, as by a broken connection.
    NotWhole(Vec<W>),
}

#[derive(Debug)]
struct Waiters<W> {
    listening: VecDeque<W>,
    connecting: VecDeque<ConnectionId>,
}

#[derive(Debug)]
struct Tunnel<W> {
    place: Place,
    client: Name,
    deadline: Timestamp,
    number: u64,
    is_offered: bool,
    /// It had another id, under which it was offered in vain.
    is_again: bool,
    /// How long its client waits until somebody is told.
    until: Timestamp,
    connect: W,
    accept: Option<W>,
    upstream: Option<W>,
    downstream: Option<W>,
}

/// What is known of a connection from its beginning.
struct Asked<W> {
    client: Name,
    connect: W,
    until: Timestamp,
    is_again: bool,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self {
            listening: VecDeque::new(),
            connecting: VecDeque::new(),
        }
    }
}

impl<W: Copy + PartialEq> Switchboard<W> {
    /// Nobody waits.
    #[must_use]
    pub fn new(limits: SwitchboardLimits) -> Self {
        Self {
            limits,
            tally: TunnelTally::default(),
            places: HashMap::new(),
            tunnels: HashMap::new(),
            listened: HashMap::new(),
            next_tidying: Timestamp::default(),
            deadlines: BTreeSet::new(),
            begun: 0,
        }
    }

    /// From now on the limits are these; deadlines that run stay.
    pub const fn set_limits(&mut self, limits: SwitchboardLimits) {
        self.limits = limits;
    }

    /// What became of all connections so far.
    #[must_use]
    pub const fn tally(&self) -> TunnelTally {
        self.tally
    }

    /// Who waits. Looks at all of them: for reports.
    #[must_use]
    pub fn census(&self) -> TunnelCensus {
        let listening = self.places.values().map(|waiters| waiters.listening.len());
        let not_accepted = self.tunnels.values();
        let not_accepted = not_accepted.filter(|tunnel| tunnel.accept.is_none());
        TunnelCensus {
            listens_waiting: listening.sum::<usize>() as u64,
            connects_waiting: not_accepted.count() as u64,
        }
    }

    /// Where somebody waits: how many listen there, and how many connections wait for one who
    /// does.
    pub fn places(&self) -> impl Iterator<Item = (&Place, [usize; 2])> {
        self.places.iter().map(|(place, waiters)| {
            let counts = [waiters.listening.len(), waiters.connecting.len()];
            (place, counts)
        })
    }

    /// How many tunnels are not whole yet.
    #[cfg(test)]
    fn tunnels_count(&self) -> usize {
        self.tunnels.len()
    }

    /// A server listens. Gives the id of a connection that is for it at once; else it waits.
    pub fn listen(&mut self, place: &Place, listener: W) -> Option<ConnectionId> {
        let waiters = self.places.entry(place.clone()).or_default();
        let Some(id) = waiters.connecting.pop_front() else {
            waiters.listening.push_back(listener);
            return None;
        };
        self.tidy(place);
        self.tunnel(id).is_offered = true;
        Some(id)
    }

    /// A listener waits no more.
    pub fn stop_listening(&mut self, place: &Place, listener: W) {
        if let Some(waiters) = self.places.get_mut(place) {
            waiters.listening.retain(|waiting| *waiting != listener);
            self.tidy(place);
        }
    }

    /// A client wants a connection, which has the fresh name `id`. Gives the listener that is
    /// to be told; without one the connection waits.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`].
    pub fn connect(
        &mut self,
        id: ConnectionId,
        place: &Place,
        client: Name,
        connect: W,
        now: Timestamp,
    ) -> Result<Option<W>, Refusal> {
        let waiters = self.places.entry(place.clone()).or_default();
        let listener = waiters.listening.pop_front();
        if listener.is_none() {
            if waiters.connecting.len() >= self.limits.connects_per_place_max {
                return Err(Refusal::Busy);
            }
            waiters.connecting.push_back(id);
        } else {
            self.note_listened(place, now);
        }
        self.tally.asked += 1;
        let asked = Asked {
            client,
            connect,
            until: now + self.limits.connect_timeout,
            is_again: false,
        };
        Ok(self.begin(id, place, asked, listener))
    }

    /// A connection that was [not taken](Late::NotTaken) is to be had again, by the fresh name
    /// `id`. Gives the listener that is to be told: the last that came, which is the likeliest
    /// to be there. Without one the connection waits before all others.
    pub fn connect_again(
        &mut self,
        id: ConnectionId,
        place: &Place,
        client: Name,
        connect: W,
        until: Timestamp,
    ) -> Option<W> {
        let waiters = self.places.entry(place.clone()).or_default();
        let listener = waiters.listening.pop_back();
        if listener.is_none() {
            waiters.connecting.push_front(id);
        }
        let asked = Asked {
            client,
            connect,
            until,
            is_again: true,
        };
        self.begin(id, place, asked, listener)
    }

    fn begin(
        &mut self,
        id: ConnectionId,
        place: &Place,
        asked: Asked<W>,
        listener: Option<W>,
    ) -> Option<W> {
        self.tidy(place);
        self.begun += 1;
        let Asked {
            client,
            connect,
            until,
            is_again,
        } = asked;
        let tunnel = Tunnel {
            place: place.clone(),
            client,
            deadline: until,
            number: self.begun,
            is_offered: listener.is_some(),
            is_again,
            until,
            connect,
            accept: None,
            upstream: None,
            downstream: None,
        };
        self.deadlines.insert(tunnel.deadline_of(id));
        let replaced = self.tunnels.insert(id, tunnel);
        debug_assert!(replaced.is_none(), "an id is fresh");
        listener
    }

    /// Where a connection waits that nobody was told of, or has accepted.
    #[must_use]
    pub fn place_of(&self, id: ConnectionId) -> Option<&Place> {
        let tunnel = self.tunnels.get(&id)?;
        (!tunnel.is_offered).then_some(&tunnel.place)
    }

    /// The server that took the connection does not want it. Gives the client's request.
    pub fn give_up(&mut self, id: ConnectionId) -> Option<W> {
        let tunnel = self.remove_not_accepted(id)?;
        self.tally.rejected += 1;
        Some(tunnel.connect)
    }

    /// The server that took the connection is away; as [`Late::NotTaken`]. Gives the client's
    /// request, and how long it waits.
    pub fn put_off(&mut self, id: ConnectionId) -> Option<(W, Timestamp)> {
        let tunnel = self.remove_not_accepted(id)?;
        self.tally.offered_again += 1;
        Some((tunnel.connect, tunnel.until))
    }

    fn remove_not_accepted(&mut self, id: ConnectionId) -> Option<Tunnel<W>> {
        let is_accepted = self.tunnels.get(&id)?.accept.is_some();
        (!is_accepted).then(|| self.remove(id)).flatten()
    }

    /// Whose connection it is.
    #[must_use]
    pub fn client_of(&self, id: ConnectionId) -> Option<&Name> {
        self.tunnels.get(&id).map(|tunnel| &tunnel.client)
    }

    /// Whether somebody listens there, or did until just now and is about to come again.
    #[must_use]
    pub fn is_served(&self, place: &Place, now: Timestamp) -> bool {
        let listens = |waiters: &Waiters<W>| !waiters.listening.is_empty();
        self.places.get(place).is_some_and(listens)
            || self
                .listened
                .get(place)
                .is_some_and(|at| now.since(*at) < LISTENS_AGAIN_TIME)
    }

    /// A request has just ceased to listen there.
    pub fn note_listened(&mut self, place: &Place, now: Timestamp) {
        let is_recent = |at: &Timestamp| now.since(*at) < LISTENS_AGAIN_TIME;
        if self.next_tidying <= now {
            self.next_tidying = now + LISTENS_AGAIN_TIME;
            self.listened.retain(|_, at| is_recent(at));
        }
        self.listened.insert(place.clone(), now);
    }

    /// The listener was told of the connection: it is to accept it before long.
    pub fn handle_told(&mut self, id: ConnectionId, now: Timestamp) {
        if let Some(tunnel) = self.tunnels.get(&id)
            && tunnel.accept.is_none()
        {
            self.reschedule(id, now + self.limits.accept_timeout);
        }
    }

    /// The listener could not be told. Gives another one that is to be; else the connection
    /// waits again, before all others.
    pub fn handle_not_told(&mut self, id: ConnectionId) -> Option<W> {
        let tunnel = self.tunnels.get_mut(&id)?;
        if tunnel.accept.is_some() {
            return None;
        }
        let place = tunnel.place.clone();
        let waiters = self.places.entry(place.clone()).or_default();
        let listener = waiters.listening.pop_front();
        if listener.is_none() {
            waiters.connecting.push_front(id);
        }
        tunnel.is_offered = listener.is_some();
        self.tidy(&place);
        listener
    }

    /// A server accepts. Gives the client's request, which is to be answered.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], [`Refusal::Used`].
    pub fn accept(
        &mut self,
        id: ConnectionId,
        server: &Name,
        accept: W,
        now: Timestamp,
    ) -> Result<W, Refusal> {
        let tunnel = self.of_server(id, server)?;
        if tunnel.accept.is_some() {
            return Err(Refusal::Used);
        }
        tunnel.accept = Some(accept);
        let connect = tunnel.connect;
        self.tally.accepted += 1;
        self.reschedule(id, now + self.limits.join_timeout);
        Ok(connect)
    }

    /// A server does not want the connection, which is over. Gives the client's request.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], [`Refusal::Used`].
    pub fn reject(&mut self, id: ConnectionId, server: &Name) -> Result<W, Refusal> {
        let tunnel = self.of_server(id, server)?;
        if tunnel.accept.is_some() {
            return Err(Refusal::Used);
        }
        let connect = tunnel.connect;
        self.remove(id);
        self.tally.rejected += 1;
        Ok(connect)
    }

    /// What a client sends has come.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], [`Refusal::Used`].
    pub fn upstream(
        &mut self,
        id: ConnectionId,
        client: &Name,
        upstream: W,
    ) -> Result<(), Refusal> {
        let tunnel = self
            .tunnels
            .get_mut(&id)
            .filter(|tunnel| tunnel.client == *client);
        // Until a server has accepted, the client does not know the id.
        let tunnel = tunnel.filter(|tunnel| tunnel.accept.is_some());
        take_place(&mut tunnel.ok_or(Refusal::NotFound)?.upstream, upstream)
    }

    /// What a server sends has come, perhaps before it accepts: that is another connection.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], [`Refusal::Used`].
    pub fn downstream(
        &mut self,
        id: ConnectionId,
        server: &Name,
        downstream: W,
    ) -> Result<(), Refusal> {
        take_place(&mut self.of_server(id, server)?.downstream, downstream)
    }

    /// The tunnel, once all four requests are there; it is no longer here then.
    pub fn take_whole(&mut self, id: ConnectionId) -> Option<Whole<W>> {
        let tunnel = self.tunnels.get(&id)?;
        let (upstream, accept) = (tunnel.upstream?, tunnel.accept?);
        let downstream = tunnel.downstream?;
        let Tunnel {
            place,
            client,
            connect,
            ..
        } = self.remove(id)?;
        let whole = Whole {
            place,
            client,
            connect,
            upstream,
            accept,
            downstream,
        };
        self.tally.whole += 1;
        Some(whole)
    }

    /// One of its requests has gone. Gives the others, which are to be ended.
    pub fn withdraw(&mut self, id: ConnectionId, gone: W) -> Vec<W> {
        let Some(tunnel) = self.remove(id) else {
            return Vec::new();
        };
        self.tally.broken += 1;
        tunnel
            .requests()
            .filter(|request| *request != gone)
            .collect()
    }

    /// When [`Self::poll_late`] has something to give, at the earliest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    /// A tunnel that was not whole in time; call until `None`.
    pub fn poll_late(&mut self, now: Timestamp) -> Option<Late<W>> {
        let (deadline, _, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        let tunnel = self.remove(ConnectionId(id))?;
        if tunnel.accept.is_none() && tunnel.is_offered && now < tunnel.until {
            self.tally.offered_again += 1;
            return Some(Late::NotTaken {
                connect: tunnel.connect,
                downstream: tunnel.downstream,
                until: tunnel.until,
            });
        }
        let became = match (tunnel.accept, tunnel.is_offered || tunnel.is_again) {
            (None, false) => &mut self.tally.not_offered,
            (None, true) => &mut self.tally.not_accepted,
            (Some(_), _) => &mut self.tally.broken,
        };
        *became += 1;
        Some(match tunnel.accept {
            None => Late::NotAccepted {
                connect: tunnel.connect,
                downstream: tunnel.downstream,
            },
            Some(_) => Late::NotWhole(tunnel.requests().collect()),
        })
    }

    fn of_server(&mut self, id: ConnectionId, server: &Name) -> Result<&mut Tunnel<W>, Refusal> {
        let tunnel = self.tunnels.get_mut(&id).filter(|tunnel| tunnel.is_offered);
        tunnel
            .filter(|tunnel| tunnel.place.server == *server)
            .ok_or(Refusal::NotFound)
    }

    fn tunnel(&mut self, id: ConnectionId) -> &mut Tunnel<W> {
        self.tunnels
            .get_mut(&id)
            .expect("who waits at a place has a tunnel")
    }

    fn reschedule(&mut self, id: ConnectionId, deadline: Timestamp) {
        let tunnel = self.tunnels.get_mut(&id).expect("it was just looked at");
        self.deadlines.remove(&tunnel.deadline_of(id));
        tunnel.deadline = deadline;
        self.deadlines.insert(tunnel.deadline_of(id));
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Tunnel<W>> {
        let tunnel = self.tunnels.remove(&id)?;
        self.deadlines.remove(&tunnel.deadline_of(id));
        if !tunnel.is_offered
            && let Some(waiters) = self.places.get_mut(&tunnel.place)
        {
            waiters.connecting.retain(|waiting| *waiting != id);
            self.tidy(&tunnel.place);
        }
        Some(tunnel)
    }

    /// Forgets a place where nobody waits.
    fn tidy(&mut self, place: &Place) {
        let is_empty = self
            .places
            .get(place)
            .is_some_and(|waiters| waiters.listening.is_empty() && waiters.connecting.is_empty());
        if is_empty {
            self.places.remove(place);
        }
    }
}

impl<W: Copy> Tunnel<W> {
    fn deadline_of(&self, id: ConnectionId) -> (Timestamp, u64, [u8; 16]) {
        (self.deadline, self.number, id.0)
    }

    fn requests(&self) -> impl Iterator<Item = W> + use<W> {
        let others = [self.accept, self.upstream, self.downstream];
        std::iter::once(self.connect).chain(others.into_iter().flatten())
    }
}

fn take_place<W>(place: &mut Option<W>, request: W) -> Result<(), Refusal> {
    if place.is_some() {
        return Err(Refusal::Used);
    }
    *place = Some(request);
    Ok(())
}

#[cfg(test)]
#[path = "switchboard_tests.rs"]
mod tests;
