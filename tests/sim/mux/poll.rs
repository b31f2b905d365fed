//! Who is told of what: edges, as the ring's multishot polls report them.

use std::os::fd::{AsFd, OwnedFd};

use midspan::relay::mux::MuxPlane;
use midspan::runtime::readiness::Readiness;
use midspan::slab::Key;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFlags, Timespec};

/// What a socket is to a plane.
#[derive(Clone, Copy, Debug)]
pub(super) enum Watched {
    Tunnel(Key),
    Channel(Key),
}

/// One plane's sockets.
pub(super) struct Poll {
    epoll: OwnedFd,
    watched: Vec<Option<Watched>>,
}

/// A socket that is watched, and is nobody's yet.
pub(super) struct Place(usize);

impl Poll {
    pub(super) fn new() -> Self {
        Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).expect("a poll"),
            watched: Vec::new(),
        }
    }

    /// From now on; closing the socket ends it.
    pub(super) fn watch(&mut self, socket: impl AsFd, flags: EventFlags) -> Place {
        let place = self.watched.len();
        self.watched.push(None);
        let data = EventData::new_u64(place as u64);
        epoll::add(&self.epoll, socket, data, flags | EventFlags::ET).expect("watched");
        Place(place)
    }

    pub(super) fn assign(&mut self, place: &Place, watched: Watched) {
        self.watched[place.0] = Some(watched);
    }

    /// Tells the plane what has happened since.
    pub(super) fn tell(&mut self, plane: &mut MuxPlane) {
        let mut events = Vec::with_capacity(256);
        let at_once = Timespec::default();
        epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)).expect("polled");
        for event in events {
            let flags = event.flags;
            let bits = u16::try_from(flags.bits() & 0xffff).expect("16 bits");
            let readiness = Readiness::from_poll(PollFlags::from_bits_retain(bits));
            let place = usize::try_from(event.data.u64()).expect("a place");
            match self.watched[place] {
                Some(Watched::Tunnel(key)) => plane.handle_tunnel(key.index, readiness),
                Some(Watched::Channel(key)) => plane.handle_channel(key.index, readiness),
                None => unreachable!("it is assigned before anybody is told"),
            }
        }
    }
}
