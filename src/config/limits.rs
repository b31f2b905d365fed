//! Every limit that an operator can set: name, default, range and reason,
//! stated once.
//!
//! Limits hold for the whole process; a shard takes its share. Limits that a
//! protocol or the code fixes (a packet's size, a scratch buffer) stand where
//! they are used.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::error::similar;
use super::{Problem, ValueError};
use LimitDefault::{Fixed, OfDescriptors, OfMemory};

/// What the relay opens besides connections and pipes: listeners, rings,
/// eventfds, log, state, with room to spare.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// The most pipes that the pool holds by default: three quarters of them are a
/// dozen for each of 48 streams whose destinations are slow. All of them can hold
/// 768 MiB of the kernel's memory, most of which would wait in receive queues
/// otherwise.
const PIPES_DEFAULT_MAX: u64 = 768;

/// The most that `names_per_user_max` may be: no more than wait of all users.
pub const NAMES_PER_USER_HIGHEST: u64 = 256;

const HANDSHAKE_TIMEOUT_DEFAULT_S: u64 = 10;
const ASSOCIATION_TTL_MIN_S: u64 = 10;

/// One limit, for help texts and range checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// Its key under `[limits]` and on the command line; the unit comes last.
    pub name: &'static str,
    /// What it is when nobody sets it.
    pub default: LimitDefault,
    /// The least that may be set.
    pub min: u64,
    /// The most that may be set.
    pub max: u64,
    /// What it bounds and why.
    pub doc: &'static str,
}

/// Where a limit's default comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitDefault {
    /// It is always this.
    Fixed(u64),
    /// The process's limit of descriptors.
    OfDescriptors,
    /// What memory there is.
    OfMemory,
}

impl LimitDefault {
    const fn fixed(self) -> Option<u64> {
        match self {
            Fixed(value) => Some(value),
            OfDescriptors | OfMemory => None,
        }
    }
}

impl fmt::Display for LimitDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fixed(value) => value.fmt(f),
            OfDescriptors => f.write_str("from the descriptor limit"),
            OfMemory => f.write_str("half of the memory"),
        }
    }
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $default:expr, $min:expr, $max:expr;)+) => {
        /// Every limit's value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        /// `[limits]` as written in a file.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct WrittenLimits {
            $(#[doc = concat!("`", stringify!($name), "`")] pub $name: Option<Spanned<u64>>,)+
        }

        /// All limits, in the order in which they are documented.
        pub const LIMITS: &[LimitSpec] = &[
            $(LimitSpec {
                name: stringify!($name),
                default: $default,
                min: $min,
                max: $max,
                doc: concat!($($doc),+),
            },)+
        ];

        impl Limits {
            /// Names and values, in the order of [`LIMITS`].
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }

            fn value_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }

        impl WrittenLimits {
            /// What was written, by name, with its place in the file.
            pub(super) fn written(&self) -> Vec<(&'static str, &Spanned<u64>)> {
                let all = [$((stringify!($name), self.$name.as_ref())),+];
                all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
            }
        }
    };
}

limits! {
    /// Connections at once, waiting, paired and in handshakes. Above it a new
    /// one is accepted and closed.
    connections_max: OfDescriptors, 2, 16_777_216;
    /// Connections from one source address at once, whatever they are at. Above it a
    /// new one is accepted and closed. 0 is no limit.
    connections_per_address_max: Fixed(0), 0, 16_777_216;
    /// Connections at once that have not yet said what they want.
    handshakes_max: Fixed(4096), 1, 1_048_576;
    /// Seconds from a connection's first moment until its request must be
    /// complete.
    handshake_timeout_s: Fixed(HANDSHAKE_TIMEOUT_DEFAULT_S), 1, 300;
    /// Associations at once. Above it, one that an acceptor created and left
    /// makes way for a new one.
    associations_max: Fixed(262_144), 1, 16_777_216;
    /// Associations at once that one key's or issuer's requests made known. 0 is no limit.
    associations_per_bearer_max: Fixed(0), 0, 16_777_216;
    /// Seconds from an association's creation until it is forgotten, unless a
    /// pair of it is joined.
    association_ttl_s: Fixed(300), ASSOCIATION_TTL_MIN_S, 86_400;
    /// Seconds that a session may last, from when its legs are joined. 0 is no limit.
    session_ttl_s: Fixed(0), 0, 31_536_000;
    /// Seconds that a session may carry nothing, up to an eighth more. What keeps a
    /// WebSocket alive does not count. 0 is no limit.
    session_idle_s: Fixed(0), 0, 31_536_000;
    /// Legs from one source address that wait for their peer at once.
    waiting_per_address_max: Fixed(16_384), 1, 16_777_216;
    /// Requests that create an association, of one key or issuer, in a minute; so many may
    /// come at once. 0 is no limit.
    creations_per_minute_max: Fixed(0), 0, 1_048_576;
    /// Sessions at once of one user that the relay dials for, those that are being dialled
    /// among them; a table of `[[websocks.rules]]` or `[[jproxy.rules]]` may say otherwise. 0 is
    /// no limit.
    sessions_per_user_max: Fixed(0), 0, 16_777_216;
    /// What is dialled for one user in a minute; so much may be at once, and a table of
    /// `[[websocks.rules]]` or `[[jproxy.rules]]` may say otherwise. 0 is no limit.
    dials_per_minute_max: Fixed(0), 0, 1_048_576;
    /// Visitors at once that await somebody by SOCKS5's BIND, for each of whom the relay
    /// listens at a port.
    binds_max: Fixed(256), 1, 65_536;
    /// Those of one user, be they on whichever shards; a table of `[[websocks.rules]]` may say
    /// otherwise. 0 is none.
    binds_per_user_max: Fixed(16), 0, 65_536;
    /// Seconds until whom such a visitor awaits must have come. Gateways on the way, and
    /// clients, often give up what is silent for a minute.
    bind_timeout_s: Fixed(45), 1, 3600;
    /// Tunnels of jProxy at once.
    tunnels_max: Fixed(4096), 1, 1_048_576;
    /// Those of one user. 0 is no limit.
    tunnels_per_user_max: Fixed(0), 0, 1_048_576;
    /// Channels at once of one tunnel. Clients number them below 1024.
    channels_per_tunnel_max: Fixed(1024), 1, 1024;
    /// Connections at once that wait for one forwarded port, while nobody listens there.
    ptth_connects_per_port_max: Fixed(64), 1, 65_536;
    /// Requests of one server that listen at once, at all of its ports, be they on whichever
    /// shards.
    ptth_listens_per_server_max: Fixed(256), 1, 65_536;
    /// Seconds after which a server that listens is told to ask again. Gateways on the way
    /// often give up what is silent for a minute.
    ptth_listen_timeout_s: Fixed(25), 1, 3600;
    /// Seconds that a client waits until its connection is accepted.
    ptth_connect_timeout_s: Fixed(30), 1, 3600;
    /// Seconds that a server may take to accept a connection that it was told of, before
    /// another of its requests that listen is told.
    ptth_accept_timeout_s: Fixed(10), 1, 3600;
    /// Seconds from its acceptance until the other requests of a connection must be there.
    ptth_join_timeout_s: Fixed(10), 1, 3600;
    /// Seconds that a tunnel may carry nothing, neither way, up to an eighth more. 0 is no
    /// limit but `session_idle_s`.
    ptth_idle_s: Fixed(600), 0, 31_536_000;
    /// Seconds that one way of a tunnel may carry nothing once the other one has ended, up to
    /// an eighth more. 0 is no limit but `ptth_idle_s`.
    ptth_half_closed_s: Fixed(30), 0, 31_536_000;
    /// Streams at once that a proxy which has come by QUIC may have opened.
    quic_streams_per_client_max: Fixed(4096), 1, 65_536;
    /// Bytes of one stream that its proxy may send before they are passed on. What a round
    /// trip of 40 ms needs at 400 Mbit/s is 2 MiB.
    quic_stream_window_bytes: Fixed(2 << 20), 64 << 10, 1 << 30;
    /// The same of all streams of one connection: what a proxy holds of the relay's memory by
    /// sending what nobody reads.
    quic_connection_window_bytes: Fixed(16 << 20), 64 << 10, 1 << 30;
    /// Bytes beyond that which may wait for those who do not read, of one connection: so that a
    /// server's other clients have their share of it.
    quic_stalled_bytes_max: Fixed(256 << 20), 0, 64 << 30;
    /// Bytes that the relay sends on one connection, and holds, before they are acknowledged.
    quic_send_window_bytes: Fixed(8 << 20), 64 << 10, 1 << 30;
    /// Seconds of silence after which a connection is given up. Proxies ask after 5.
    quic_idle_timeout_s: Fixed(20), 6, 3600;
    /// Seconds that a connection may take to say whose it is.
    quic_hello_timeout_s: Fixed(5), 1, 300;
    /// Seconds that a server's proxy may take to answer for what it exposes. It takes up to 5,
    /// and the client's proxy waits for 12.
    quic_answer_timeout_s: Fixed(10), 1, 300;
    /// Names of one user that are resolved, or wait for that, at once.
    names_per_user_max: Fixed(64), 1, NAMES_PER_USER_HIGHEST;
    /// Wrong passwords from one source address in a minute, of IPv6 from one /64; so many
    /// may come at once. Above it none is looked at. 0 is no limit.
    wrong_passwords_per_minute_max: Fixed(60), 0, 1_048_576;
    /// Tokens that serve once and were used, remembered until they expire. Above it
    /// none is taken.
    spent_tokens_max: Fixed(262_144), 1, 16_777_216;
    /// Pipes kept for splicing, two descriptors each. Without a free one, a
    /// pair copies.
    pipes_max: OfDescriptors, 0, 65_536;
    /// Bytes of memory that the relay may have allocated when it lets in another
    /// connection, makes an association known at a request, or begins to pass datagrams on.
    /// Not counted are what the
    /// kernel holds for sockets and pipes, and rings. By default half of what the host or
    /// its control group has.
    memory_bytes_max: OfMemory, 16 << 20, 1 << 40;
    /// Bytes of memory, of those, for what was read and cannot be written yet.
    spill_bytes_max: Fixed(64 << 20), 1 << 20, 64 << 30;
    /// Bytes of memory, of those, for the files below `web.root`. They are held whole.
    web_bytes_max: Fixed(64 << 20), 1, 16 << 30;
    /// Files and folders below `web.root`.
    web_files_max: Fixed(4096), 1, 1_048_576;
    /// Bytes of one of the files.
    web_file_bytes_max: Fixed(8 << 20), 1, 1 << 30;
    /// Seconds without a word from a WebSocket, up to twice as many, until it
    /// is pinged. 0 pings none.
    websocket_ping_s: Fixed(20), 0, 3600;
    /// Seconds that a WebSocket has to answer a ping, or our Close, rounded up
    /// to whole intervals of pings.
    websocket_pong_timeout_s: Fixed(20), 1, 3600;
}

impl Limits {
    /// The defaults for a process that may open `descriptors` files, where there are
    /// `memory_bytes` of memory.
    ///
    /// A connection takes one descriptor and a pipe two, so pipes get at most a
    /// quarter of them.
    #[must_use]
    pub fn defaults(descriptors: u64, memory_bytes: u64) -> Self {
        let pipes_max = (descriptors / 8).min(PIPES_DEFAULT_MAX);
        let mut limits = Self {
            connections_max: 0,
            connections_per_address_max: 0,
            handshakes_max: 0,
            handshake_timeout_s: 0,
            associations_max: 0,
            associations_per_bearer_max: 0,
            association_ttl_s: 0,
            session_ttl_s: 0,
            session_idle_s: 0,
            waiting_per_address_max: 0,
            creations_per_minute_max: 0,
            sessions_per_user_max: 0,
            dials_per_minute_max: 0,
            binds_max: 0,
            binds_per_user_max: 0,
            bind_timeout_s: 0,
            tunnels_max: 0,
            tunnels_per_user_max: 0,
            channels_per_tunnel_max: 0,
            ptth_connects_per_port_max: 0,
            ptth_listens_per_server_max: 0,
            ptth_listen_timeout_s: 0,
            ptth_connect_timeout_s: 0,
            ptth_accept_timeout_s: 0,
            ptth_join_timeout_s: 0,
            ptth_idle_s: 0,
            ptth_half_closed_s: 0,
            quic_streams_per_client_max: 0,
            quic_stream_window_bytes: 0,
            quic_connection_window_bytes: 0,
            quic_stalled_bytes_max: 0,
            quic_send_window_bytes: 0,
            quic_idle_timeout_s: 0,
            quic_hello_timeout_s: 0,
            quic_answer_timeout_s: 0,
            names_per_user_max: 0,
            wrong_passwords_per_minute_max: 0,
            spent_tokens_max: 0,
            pipes_max,
            memory_bytes_max: memory_bytes / 2,
            spill_bytes_max: 0,
            web_bytes_max: 0,
            web_files_max: 0,
            web_file_bytes_max: 0,
            websocket_ping_s: 0,
            websocket_pong_timeout_s: 0,
        };
        for spec in LIMITS {
            if let (Some(default), Some(value)) =
                (spec.default.fixed(), limits.value_mut(spec.name))
            {
                *value = default;
            }
        }
        let spec = spec_of("memory_bytes_max");
        limits.memory_bytes_max = limits.memory_bytes_max.clamp(spec.min, spec.max);
        limits.spill_bytes_max = spill_for(limits.memory_bytes_max);
        limits.web_bytes_max = web_for(limits.memory_bytes_max);
        limits.connections_max = limits.connections_for(descriptors);
        limits.handshakes_max = handshakes_for(limits.connections_max);
        limits
    }

    /// How many connections `descriptors` leave room for, beside the pipes.
    pub(super) fn connections_for(&self, descriptors: u64) -> u64 {
        let spec = spec_of("connections_max");
        let room = descriptors.saturating_sub(self.descriptors_needed(0));
        room.clamp(spec.min, spec.max)
    }

    /// The descriptors that `connections` take, with pipes and reserve.
    #[must_use]
    pub fn descriptors_needed(&self, connections: u64) -> u64 {
        connections + 2 * self.pipes_max + DESCRIPTORS_RESERVED
    }

    /// Sets one limit by name.
    ///
    /// # Errors
    ///
    /// `value` is outside the limit's range.
    pub(super) fn set(&mut self, spec: &LimitSpec, value: u64) -> Result<(), Problem> {
        if !(spec.min..=spec.max).contains(&value) {
            return Err(Problem::OutOfRange {
                value,
                min: spec.min,
                max: spec.max,
            });
        }
        if let Some(slot) = self.value_mut(spec.name) {
            *slot = value;
        }
        Ok(())
    }

    /// [`association_ttl_s`](Self::association_ttl_s) as a duration.
    #[must_use]
    pub const fn association_ttl(&self) -> Duration {
        Duration::from_secs(self.association_ttl_s)
    }

    /// [`handshake_timeout_s`](Self::handshake_timeout_s) as a duration.
    #[must_use]
    pub const fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_s)
    }

    /// [`bind_timeout_s`](Self::bind_timeout_s) as a duration.
    #[must_use]
    pub const fn bind_timeout(&self) -> Duration {
        Duration::from_secs(self.bind_timeout_s)
    }

    /// [`ptth_idle_s`](Self::ptth_idle_s) as a duration; `None` when it is zero, for ever.
    #[must_use]
    pub fn ptth_idle(&self) -> Option<Duration> {
        unless_zero(self.ptth_idle_s)
    }

    /// [`ptth_half_closed_s`](Self::ptth_half_closed_s) as a duration; `None` when it is
    /// zero, for ever.
    #[must_use]
    pub fn ptth_half_closed(&self) -> Option<Duration> {
        unless_zero(self.ptth_half_closed_s)
    }

    /// [`session_ttl_s`](Self::session_ttl_s) as a duration; `None` when it is zero,
    /// for ever.
    #[must_use]
    pub fn session_ttl(&self) -> Option<Duration> {
        unless_zero(self.session_ttl_s)
    }

    /// [`session_idle_s`](Self::session_idle_s) as a duration; `None` when it is zero,
    /// for ever.
    #[must_use]
    pub fn session_idle(&self) -> Option<Duration> {
        unless_zero(self.session_idle_s)
    }
}

fn unless_zero(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The default of `handshakes_max` where there may be so many connections.
pub(super) fn handshakes_for(connections_max: u64) -> u64 {
    spec_of("handshakes_max")
        .default
        .fixed()
        .map_or(connections_max, |default| default.min(connections_max))
}

/// The default of `spill_bytes_max` where there is so much memory in all.
pub(super) fn spill_for(memory_bytes_max: u64) -> u64 {
    spec_of("spill_bytes_max")
        .default
        .fixed()
        .map_or(0, |default| default.min(memory_bytes_max / 2))
}

/// The default of `web_bytes_max` where there is so much memory in all.
pub(super) fn web_for(memory_bytes_max: u64) -> u64 {
    spec_of("web_bytes_max")
        .default
        .fixed()
        .map_or(0, |default| default.min(memory_bytes_max / 4))
}

/// The specification of the limit called `name`, which is one of ours.
pub(super) fn spec_of(name: &str) -> &'static LimitSpec {
    let index = LIMITS.iter().position(|spec| spec.name == name);
    debug_assert!(index.is_some(), "no limit is called {name}");
    &LIMITS[index.unwrap_or(0)]
}

/// `NAME=VALUE` from the command line, in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitFlag {
    /// Which limit.
    pub spec: &'static LimitSpec,
    /// Its value, within the range.
    pub value: u64,
}

impl FromStr for LimitFlag {
    type Err = ValueError;

    fn from_str(written: &str) -> Result<Self, ValueError> {
        let form = || ValueError::LimitForm {
            written: written.to_owned(),
        };
        let (name, value) = written.split_once('=').ok_or_else(form)?;
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let value = if digits {
            value.parse::<u64>().ok()
        } else {
            None
        }
        .ok_or_else(form)?;
        let Some(spec) = LIMITS.iter().find(|spec| spec.name == name) else {
            return Err(ValueError::LimitName {
                written: name.to_owned(),
                similar: similar(name, LIMITS.iter().map(|spec| spec.name)),
            });
        };
        if !(spec.min..=spec.max).contains(&value) {
            let (name, min, max) = (spec.name, spec.min, spec.max);
            return Err(ValueError::LimitRange {
                name,
                value,
                min,
                max,
            });
        }
        Ok(Self { spec, value })
    }
}

/// Relations that hold whatever an operator sets, and between the defaults.
const _: () = {
    let mut index = 0;
    while index < LIMITS.len() {
        let spec = &LIMITS[index];
        assert!(spec.min <= spec.max);
        // Sums and products of limits, and TOML's integers, stay within i64.
        assert!(spec.max <= 1 << 40);
        if let Some(default) = spec.default.fixed() {
            assert!(spec.min <= default && default <= spec.max);
        }
        index += 1;
    }
    // A handshake ends before the association that it asks for is forgotten.
    // Only a handshake timeout that somebody wrote can break this.
    assert!(HANDSHAKE_TIMEOUT_DEFAULT_S <= ASSOCIATION_TTL_MIN_S);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_leave_room_for_every_descriptor() {
        for descriptors in [256, 1024, 4096, 20_000, 524_288, 1 << 30] {
            let limits = Limits::defaults(descriptors, 1 << 30);
            assert!(limits.descriptors_needed(limits.connections_max) <= descriptors);
            assert!(limits.handshakes_max <= limits.connections_max);
            for (name, value) in limits.named() {
                let spec = spec_of(name);
                assert!((spec.min..=spec.max).contains(&value), "{name} = {value}");
            }
        }
        assert_eq!(Limits::defaults(1024, 1 << 30).connections_max, 704);
        assert_eq!(Limits::defaults(4096, 1 << 30).pipes_max, 512);
    }

    #[test]
    fn few_descriptors_still_give_one_pair() {
        let limits = Limits::defaults(10, 1 << 30);
        assert_eq!((limits.connections_max, limits.pipes_max), (2, 1));
    }

    #[test]
    fn half_of_the_memory_is_the_budget() {
        let check = |memory_bytes: u64, budget: u64, spill: u64| {
            let limits = Limits::defaults(1024, memory_bytes);
            let got = (limits.memory_bytes_max, limits.spill_bytes_max);
            assert_eq!(got, (budget, spill), "of {memory_bytes}");
        };
        check(4 << 30, 2 << 30, 64 << 20);
        check(100 << 20, 50 << 20, 25 << 20);
        check(0, 16 << 20, 8 << 20);
        check(u64::MAX, 1 << 40, 64 << 20);
    }

    #[test]
    fn flags_name_what_is_wrong() {
        let check = |written: &str, expected: Result<(&str, u64), &str>| match (
            written.parse::<LimitFlag>(),
            expected,
        ) {
            (Ok(flag), Ok(expected)) => assert_eq!((flag.spec.name, flag.value), expected),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{written}: {error}");
            }
            (got, _) => panic!("{written}: {got:?}"),
        };
        check("association_ttl_s=60", Ok(("association_ttl_s", 60)));
        check(
            "asociation_ttl_s=60",
            Err("did you mean \"association_ttl_s\"?"),
        );
        check(
            "memory=60",
            Err("there are connections_max, connections_per_address_max"),
        );
        check(
            "association_ttl_s=5",
            Err("association_ttl_s = 5 is outside 10 to 86400"),
        );
        check("association_ttl_s", Err("is not NAME=VALUE"));
        check("association_ttl_s=", Err("is not NAME=VALUE"));
        check("association_ttl_s=-1", Err("is not NAME=VALUE"));
        check(
            "association_ttl_s=99999999999999999999",
            Err("is not NAME=VALUE"),
        );
    }
}
