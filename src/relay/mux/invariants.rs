//! What holds between two turns of the plane, whatever came by its tunnels.

use std::collections::HashSet;

use super::MuxPlane;
use super::channel::{Channel, LocalEnd};
use super::tunnel::{Inbound, Tunnel};
use crate::slab::Key;

impl MuxPlane {
    /// Looks at everything there is: for tests, which call it after each step.
    ///
    /// # Panics
    ///
    /// If something is counted, listed or queued otherwise than it is, or if there is work that
    /// nothing would do.
    pub fn check_invariants(&self) {
        assert!(self.means.wire.is_empty(), "packets of nobody");
        let mut channels = 0;
        for key in self.tunnels.keys() {
            let (tunnel, inbound) = self.tunnels.get(key).expect("it is there");
            channels += tunnel.channel_count();
            let is_ready = self.ready.contains(&key);
            assert_eq!(tunnel.is_queued, is_ready, "a tunnel's place");
            if tunnel.held.is_some() {
                assert!(tunnel.is_among_held, "nobody looks when it is overdue");
            }
            assert_eq!(tunnel.is_among_held, self.held.contains(&key));
            if tunnel.leaving.is_some() && tunnel.channel_count() == 0 && !tunnel.is_queued {
                let is_looked_at = tunnel.rest_until.is_some() && self.next_sweep.is_some();
                assert!(is_looked_at, "nobody looks whether its peer takes nothing");
            }
            self.check_channels(key, tunnel);
            self.check_progress(tunnel, inbound);
        }
        for key in &self.orphans.all {
            let channel = self.channels.get(*key).expect("it is there");
            assert!(channel.orphan_of.is_some() && self.tunnels.get(channel.tunnel).is_none());
            assert!(channel.is_queued || !channel.is_writable || channel.queue.is_empty());
            assert!(
                self.next_sweep.is_some(),
                "nobody looks whether it takes nothing"
            );
        }
        channels += self.orphans.all.len();
        assert_eq!(channels, self.channels.len(), "channels of nobody");
    }

    fn check_channels(&self, key: Key, tunnel: &Tunnel) {
        assert!(tunnel.channel_count() <= tunnel.channels_max);
        let ready: HashSet<Key> = tunnel.ready.iter().copied().collect();
        let starved: HashSet<Key> = tunnel.starved.iter().copied().collect();
        assert_eq!(ready.len(), tunnel.ready.len(), "one place each");
        let mut queued_bytes = 0;
        for (place, channel_key) in &tunnel.by_id {
            let channel = self.channels.get(*channel_key).expect("it is there");
            assert_eq!((channel.kind, channel.id), *place);
        }
        for channel_key in tunnel.channels() {
            let channel = self.channels.get(channel_key).expect("it is there");
            assert_eq!(channel.tunnel, key);
            assert_eq!(channel.is_queued, ready.contains(&channel_key));
            assert_eq!(channel.is_starved, starved.contains(&channel_key));
            queued_bytes += channel.queued_bytes();
            assert!(!may_go_on(channel) || channel.is_queued || channel.is_starved);
        }
        assert_eq!(queued_bytes, tunnel.queued_bytes);
        if let Some((held_by, _)) = tunnel.held {
            assert!(tunnel.channels().any(|key| key == held_by));
        }
    }

    /// A tunnel that could do something has its place.
    fn check_progress(&self, tunnel: &Tunnel, inbound: &Inbound) {
        let may_send = tunnel.link.outlet.may_flush();
        let may_read = tunnel.may_receive(inbound, 0);
        let has_ready = !tunnel.ready.is_empty() && !tunnel.is_foreign;
        let is_starved_for_nothing = !tunnel.starved.is_empty() && tunnel.link.outlet.has_room();
        assert!(
            tunnel.is_queued || !(may_send || may_read || has_ready || is_starved_for_nothing),
            "forgotten: {may_send} {may_read} {has_ready} {is_starved_for_nothing}"
        );
    }
}

/// Whether a channel's end would take something of what waits, or has something to say.
fn may_go_on(channel: &Channel) -> bool {
    let is_task = matches!(channel.end, Some(LocalEnd::Task) | None);
    let may_drain = !channel.queue.is_empty() && channel.is_writable;
    let may_read = channel.is_readable && channel.may_say_more();
    let has_all = channel.has_heard_end && channel.queue.is_empty();
    let may_shut = has_all && !(channel.is_shut && channel.may_say_more());
    !is_task && (may_drain || may_read || may_shut)
}
