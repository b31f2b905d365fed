//! Deadlines by the thousand: a hierarchical timing wheel (Varghese and Lauck,
//! 1987), pure, driven by the `now` that it is given.
//!
//! Four levels of 64 slots over ticks of one millisecond reach some four and a
//! half hours; a later deadline waits in the last level and is sorted in again
//! when its slot comes round. Setting and cancelling cost a few loads. A
//! deadline never fires early; it fires at most one tick late plus however
//! late `poll` is called.

use std::time::Duration;

use crate::time::Timestamp;

const TICK: Duration = Duration::from_millis(1);
const TICK_NS: u64 = 1_000_000;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVEL_COUNT: u32 = 4;
const LEVELS: usize = LEVEL_COUNT as usize;
/// Ticks that the wheel can tell apart.
const HORIZON: u64 = 1 << (SLOT_BITS * LEVEL_COUNT);
const NONE: u32 = u32::MAX;

const _: () = assert!(TICK.as_nanos() == TICK_NS as u128);

/// Names one set deadline; stale once it fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    due_tick: u64,
    generation: u32,
    previous: u32,
    next: u32,
    /// Level and slot where the entry hangs; meaningless while free.
    home: u16,
    value: Option<T>,
}

/// Deadlines carrying a `T` each.
#[derive(Debug)]
pub struct TimerWheel<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    heads: [[u32; SLOTS]; LEVELS],
    /// One bit per non-empty slot.
    occupied: [u64; LEVELS],
    /// Everything due at or before this tick has been handed out or is in
    /// `due`.
    current_tick: u64,
    due: Vec<(u32, u32)>,
    count: usize,
}

impl<T> TimerWheel<T> {
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            entries: Vec::new(),
            free: NONE,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            current_tick: now.as_nanos() / TICK_NS,
            due: Vec::new(),
            count: 0,
        }
    }

    /// Number of deadlines set and not yet fired.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sets a deadline that yields `value` from [`Self::poll`] once `at` has
    /// come.
    pub fn set(&mut self, at: Timestamp, value: T) -> TimerKey {
        // Rounded up, so that nothing fires early.
        let due_tick = at.as_nanos().div_ceil(TICK_NS).max(self.current_tick + 1);
        let index = self.take_entry(due_tick, value);
        self.link(index);
        self.count += 1;
        TimerKey {
            index,
            generation: self.entries[index as usize].generation,
        }
    }

    /// Takes a deadline back. `None` when it has fired or was cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation || entry.value.is_none() {
            return None;
        }
        if entry.home != IN_DUE {
            self.unlink(key.index);
        }
        self.release(key.index)
    }

    /// A time at which [`Self::poll`] should be called next: never later than
    /// the earliest deadline (rounded up to a tick), and for far deadlines
    /// possibly earlier.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.count == 0 {
            return None;
        }
        if !self.due.is_empty() {
            return Some(Timestamp::from_nanos(self.current_tick * TICK_NS));
        }
        // Each level's next occupied slot starts at a known tick; the earliest
        // of them is when something must be done.
        let tick = (0..LEVELS)
            .filter_map(|level| self.next_slot_tick(level))
            .min()?;
        Some(Timestamp::from_nanos(tick * TICK_NS))
    }

    /// Hands out one deadline that has come, if any. Call until `None`.
    pub fn poll(&mut self, now: Timestamp) -> Option<T> {
        loop {
            while let Some((index, generation)) = self.due.pop() {
                if self.entries[index as usize].generation == generation
                    && let Some(value) = self.release(index)
                {
                    return Some(value);
                }
            }
            let now_tick = now.as_nanos() / TICK_NS;
            let next = (0..LEVELS)
                .filter_map(|level| self.next_slot_tick(level))
                .min();
            match next {
                Some(tick) if tick <= now_tick => self.advance_to(tick),
                _ => {
                    self.current_tick = self.current_tick.max(now_tick);
                    return None;
                }
            }
        }
    }

    /// The tick at which the next occupied slot of `level` must be looked at.
    fn next_slot_tick(&self, level: usize) -> Option<u64> {
        if self.occupied[level] == 0 {
            return None;
        }
        let shift = SLOT_BITS * u32::try_from(level).unwrap_or(0);
        let position = self.current_tick >> shift;
        let here = slot_of(self.current_tick, level);
        // Slots strictly after the current one come first; the current slot of
        // an upper level is a whole turn away.
        let distance = self.occupied[level]
            .rotate_right(u32::try_from(here).unwrap_or(0) + 1)
            .trailing_zeros();
        Some((position + 1 + u64::from(distance)) << shift)
    }

    /// Moves the wheel to `tick`, sorting every slot that starts there one
    /// level down and what is due into `due`.
    fn advance_to(&mut self, tick: u64) {
        self.current_tick = tick;
        for level in (0..LEVELS).rev() {
            let shift = SLOT_BITS * u32::try_from(level).unwrap_or(0);
            if tick & ((1 << shift) - 1) != 0 {
                continue;
            }
            let slot = slot_of(tick, level);
            let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let next = self.entries[index as usize].next;
                if self.entries[index as usize].due_tick <= tick {
                    self.entries[index as usize].home = IN_DUE;
                    self.due
                        .push((index, self.entries[index as usize].generation));
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
    }

    fn link(&mut self, index: u32) {
        let due_tick = self.entries[index as usize].due_tick;
        let delay = (due_tick - self.current_tick).min(HORIZON - 1);
        // The level whose slots are just fine enough for this delay.
        let level = ((63 - (delay | 1).leading_zeros()) / SLOT_BITS) as usize;
        let slot = slot_of(self.current_tick + delay, level);
        let head = self.heads[level][slot];
        let entry = &mut self.entries[index as usize];
        entry.home = home(level, slot);
        entry.previous = NONE;
        entry.next = head;
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Entry {
            previous,
            next,
            home,
            ..
        } = self.entries[index as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        let (level, slot) = (usize::from(home) / SLOTS, usize::from(home) % SLOTS);
        self.heads[level][slot] = next;
        if next == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn take_entry(&mut self, due_tick: u64, value: T) -> u32 {
        if self.free != NONE {
            let index = self.free;
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.due_tick = due_tick;
            entry.value = Some(value);
            return index;
        }
        let index = u32::try_from(self.entries.len()).unwrap_or(NONE);
        assert!(
            index != NONE,
            "timers are bounded by descriptors, far below 2^32"
        );
        self.entries.push(Entry {
            due_tick,
            generation: 0,
            previous: NONE,
            next: NONE,
            home: 0,
            value: Some(value),
        });
        index
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.count -= 1;
        Some(value)
    }
}

/// Where an entry hangs that waits in `due` rather than in a slot.
const IN_DUE: u16 = u16::MAX;

fn home(level: usize, slot: usize) -> u16 {
    u16::try_from(level * SLOTS + slot).unwrap_or(IN_DUE)
}

fn slot_of(tick: u64, level: usize) -> usize {
    let shift = SLOT_BITS * u32::try_from(level).unwrap_or(0);
    usize::try_from((tick >> shift) & (SLOTS as u64 - 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * TICK_NS)
    }

    fn fired(wheel: &mut TimerWheel<u32>, now: Timestamp) -> Vec<u32> {
        let mut values: Vec<u32> = std::iter::from_fn(|| wheel.poll(now)).collect();
        values.sort_unstable();
        values
    }

    #[test]
    fn fires_at_its_time_and_not_before() {
        for delay in [
            1, 2, 63, 64, 65, 4_095, 4_096, 300_000, 16_777_215, 16_777_216, 99_000_000,
        ] {
            let start = ms(1_234_567);
            let mut wheel = TimerWheel::new(start);
            let at = start + Duration::from_millis(delay);
            wheel.set(at, 7);
            let before = start + Duration::from_millis(delay - 1);
            assert!(fired(&mut wheel, before).is_empty(), "delay {delay}");
            assert!(
                wheel.next_deadline().is_some_and(|next| next <= at),
                "delay {delay}"
            );
            assert_eq!(fired(&mut wheel, at), [7], "delay {delay}");
            assert_eq!(wheel.next_deadline(), None);
        }
    }

    #[test]
    fn a_cancelled_deadline_stays_silent_and_its_key_goes_stale() {
        let mut wheel = TimerWheel::new(ms(0));
        let key = wheel.set(ms(10), 1);
        assert_eq!(wheel.cancel(key), Some(1));
        assert_eq!(wheel.cancel(key), None);
        let reused = wheel.set(ms(10), 2);
        assert_eq!(wheel.cancel(key), None, "the slot was given to another");
        assert_eq!(fired(&mut wheel, ms(20)), [2]);
        assert_eq!(wheel.cancel(reused), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_tick() {
        let mut wheel = TimerWheel::new(ms(100));
        wheel.set(ms(5), 1);
        assert_eq!(fired(&mut wheel, ms(101)), [1]);
    }

    #[test]
    fn agrees_with_a_sorted_map_under_random_use() {
        for seed in 0..64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut now = random.u64(0..1 << 40);
            let mut wheel = TimerWheel::new(ms(now));
            let mut model: BTreeMap<(u64, u32), TimerKey> = BTreeMap::new();
            for value in 0..2_000_u32 {
                match random.u8(0..10) {
                    0..5 => {
                        let at = now + (1 << random.u32(0..25)) + random.u64(0..100);
                        model.insert((at, value), wheel.set(ms(at), value));
                    }
                    5..7 => {
                        let at = random.usize(0..model.len().max(1));
                        if let Some((&name, &key)) = model.iter().nth(at) {
                            model.remove(&name);
                            assert_eq!(wheel.cancel(key), Some(name.1), "seed {seed}");
                        }
                    }
                    _ => {
                        now += 1 << random.u32(0..22);
                        let later = model.split_off(&(now + 1, 0));
                        let mut expected: Vec<u32> = model.keys().map(|name| name.1).collect();
                        expected.sort_unstable();
                        model = later;
                        assert_eq!(fired(&mut wheel, ms(now)), expected, "seed {seed}");
                    }
                }
                let first = model.keys().next().map(|name| ms(name.0));
                assert_eq!(wheel.len(), model.len(), "seed {seed}");
                if let Some(first) = first {
                    assert!(wheel.next_deadline().is_some_and(|next| next <= first));
                }
            }
        }
    }
}
