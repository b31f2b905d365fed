//! Who takes too long: ends that hold up their tunnels, datagrams that do not come, the rest of
//! what was said by whoever has done with a channel, and that of a tunnel that is to end.

use std::cmp::Reverse;

use super::tunnel::Stop;
use super::{
    DATAGRAMS_IDLE, DATAGRAMS_IDLE_CLIENT, MuxPlane, QUEUE_BYTES_MAX, Role, SWEEP, TUNNEL_BYTES_MAX,
};
use crate::protocol::jproxy::{ChannelKind, EndReason};
use crate::relay::close::CloseReason;
use crate::slab::Key;
use crate::time::Timestamp;

impl MuxPlane {
    /// Gives up those channels that have held up their tunnels for as long as they may.
    pub(super) fn look_for_stuck(&mut self, now: Timestamp) {
        let mut overdue = Vec::new();
        self.held.retain(|key| {
            let Some((tunnel, _)) = self.tunnels.get_mut(*key) else {
                return false;
            };
            let Some((_, since)) = tunnel.held else {
                tunnel.is_among_held = false;
                return false;
            };
            if since + self.stuck <= now {
                overdue.push(*key);
            }
            true
        });
        for tunnel_key in overdue {
            for key in self.stuck_channels(tunnel_key) {
                self.counts.stuck += 1;
                self.with_turn_of(key, |turn| turn.end_stuck(key));
            }
            if let Some((tunnel, _)) = self.tunnels.get_mut(tunnel_key) {
                tunnel.held = None;
            }
            self.enqueue(tunnel_key);
        }
    }

    /// Those of a tunnel that is held up that are to blame: for whose ends much waits; and if that
    /// is not all, those that have taken less than half since, the fullest first.
    fn stuck_channels(&self, tunnel_key: Key) -> Vec<Key> {
        let Some((tunnel, _)) = self.tunnels.get(tunnel_key) else {
            return Vec::new();
        };
        let is_slow = |key: Key| {
            let channel = self.channels.get(key)?;
            let queued = channel.queued_bytes();
            (queued > 0 && 2 * queued > channel.held_bytes).then_some((queued, key))
        };
        let mut slow: Vec<(usize, Key)> = tunnel.channels().filter_map(is_slow).collect();
        slow.sort_unstable_by_key(|(queued, _)| Reverse(*queued));
        let mut rest = tunnel.queued_bytes;
        let stuck = slow.into_iter().take_while(|(queued, _)| {
            let is_to_blame = *queued >= QUEUE_BYTES_MAX / 2 || rest >= TUNNEL_BYTES_MAX / 2;
            rest -= queued;
            is_to_blame
        });
        stuck.map(|(_, key)| key).collect()
    }

    /// Ends channels for datagrams on which none has passed, and those whose ends have not taken
    /// the rest in time; and tunnels likewise.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        if self.next_sweep.is_none_or(|due| due > now) {
            return;
        }
        let mut are_there = self.sweep_tunnels(now);
        let mut silent = Vec::new();
        let mut late = Vec::new();
        for key in self.channels.keys() {
            let Some(channel) = self.channels.get(key) else {
                continue;
            };
            if let Some(until) = channel.rest_until {
                match until <= now {
                    true => late.push(key),
                    false => are_there = true,
                }
            } else if channel.kind != ChannelKind::Tcp
                && let Some((tunnel, _)) = self.tunnels.get(channel.tunnel)
            {
                are_there = true;
                let idle = match tunnel.role {
                    Role::Server => DATAGRAMS_IDLE,
                    Role::Client => DATAGRAMS_IDLE_CLIENT,
                };
                if now.since(channel.used_at) >= idle {
                    silent.push(key);
                }
            }
        }
        for key in silent {
            self.with_turn_of(key, |turn| {
                turn.end(key, CloseReason::Expired, EndReason::TimedOut);
            });
        }
        for key in late {
            self.counts.stuck += 1;
            self.end_late_orphan(key);
            self.with_turn_of(key, |turn| turn.end_stuck(key));
        }
        self.next_sweep = are_there.then(|| now + SWEEP);
    }

    /// Ends tunnels that are to end, and whose peers have not taken the rest in time; whether some
    /// still may.
    fn sweep_tunnels(&mut self, now: Timestamp) -> bool {
        let mut are_there = false;
        let mut late = Vec::new();
        for key in self.tunnels.keys() {
            if let Some((tunnel, _)) = self.tunnels.get(key)
                && let (Some(reason), Some(until)) = (tunnel.leaving, tunnel.rest_until)
            {
                match until <= now {
                    true => late.push((key, reason)),
                    false => are_there = true,
                }
            }
        }
        for (key, reason) in late {
            self.lose(key, Stop::Untaken(reason), now);
        }
        are_there
    }
}
