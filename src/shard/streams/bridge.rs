//! Ends of bridges to other shards: as tasks have them until they are joined, and how what they
//! say gets there. [`crate::relay::bridge`] has what that is.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::{Inner, World};
use crate::association::key::ShardId;
use crate::protocol::ptth_quic::StreamCode;
use crate::relay::CloseReason;
use crate::relay::bridge::{BridgeEndId, BridgeMessage, Crossing};
use crate::shard::control::Envelope;

/// An end of a bridge that one task has. One that is dropped is broken off.
pub struct BridgeEnd<C: Copy, M: Send + 'static> {
    world: Rc<World<C, M>>,
    id: BridgeEndId,
    /// It is somebody else's.
    is_let_go: bool,
}

impl<C: Copy, M: Send + 'static> BridgeEnd<C, M> {
    /// Begins a bridge to a shard, which may be this one; a task there is to take up the other
    /// end. Whoever calls it speaks QUIC.
    #[must_use]
    pub fn begin(world: &Rc<World<C, M>>, to: ShardId) -> Self {
        let id = BridgeEndId {
            begun_by: world.shard.0,
            number: world.streams.number_bridge(),
            is_near: true,
        };
        Self::open(world, id, to.0)
    }

    /// Takes up the other end of a bridge that was begun elsewhere.
    #[must_use]
    pub fn take_up(world: &Rc<World<C, M>>, id: BridgeEndId) -> Self {
        Self::open(world, id, id.begun_by)
    }

    fn open(world: &Rc<World<C, M>>, id: BridgeEndId, shard: u16) -> Self {
        world
            .streams
            .with_inner(|inner| inner.plane.open_bridge(id, shard));
        Self {
            world: Rc::clone(world),
            id,
            is_let_go: false,
        }
    }

    /// The end that is to be taken up.
    #[must_use]
    pub const fn other(&self) -> BridgeEndId {
        self.id.other()
    }

    /// Waits until it is broken off at the other end.
    pub async fn aborted(&self) {
        poll_fn(|context| {
            self.world.streams.with_inner(|inner| {
                if inner.plane.is_bridge_aborted(self.id) {
                    return Poll::Ready(());
                }
                let waker = context.waker().clone();
                inner.waiting_for_abort.insert(self.id, waker);
                Poll::Pending
            })
        })
        .await
    }

    /// Breaks it off with a code.
    pub fn break_off(mut self, code: StreamCode) {
        self.cut(code);
    }

    /// It is somebody else's from now on.
    pub(super) fn give_up(mut self) -> BridgeEndId {
        self.is_let_go = true;
        self.id
    }

    fn cut(&mut self, code: StreamCode) {
        if !std::mem::replace(&mut self.is_let_go, true) {
            let id = self.id;
            self.world
                .streams
                .with_inner(|inner| inner.plane.abort_bridge(id, code));
        }
    }
}

impl<C: Copy, M: Send + 'static> Drop for BridgeEnd<C, M> {
    fn drop(&mut self) {
        let id = self.id;
        self.world
            .streams
            .with_inner(|inner| inner.waiting_for_abort.remove(&id));
        self.cut(StreamCode::RESET);
    }
}

impl<C: Copy, M: Send + 'static> fmt::Debug for BridgeEnd<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BridgeEnd").field(&self.id).finish()
    }
}

impl<C: Copy + 'static, M: Send + 'static> World<C, M> {
    /// Sends what bridges have to say, in one message for each shard.
    pub(super) fn pass_bridges_on(&self) {
        let mut messages = match &mut *self.streams.inner.borrow_mut() {
            Some(inner) => inner.plane.take_messages(),
            None => return,
        };
        // Those for one shard stay in their order.
        messages.sort_by_key(|(shard, _)| *shard);
        let mut messages = messages.into_iter().peekable();
        while let Some((shard, first)) = messages.next() {
            let mut all = vec![first];
            while let Some((_, next)) = messages.next_if(|(next, _)| *next == shard) {
                all.push(next);
            }
            let mailbox = &self.shards[usize::from(shard)];
            if let Err(Envelope::Bridge(lost)) =
                mailbox.send_from(&self.reactor, Envelope::Bridge(all))
            {
                self.break_bridges(lost);
            }
        }
    }

    /// The shard that these were for has ended. What it had to say it has said before: whoever
    /// only owes it credit goes on to the end.
    fn break_bridges(&self, lost: Vec<BridgeMessage>) {
        let is_missed = |message: &BridgeMessage| !matches!(message.crossing, Crossing::Credit(_));
        let aborts = lost.into_iter().filter(is_missed).map(|message| {
            let abort = Crossing::Abort(StreamCode::SHUTDOWN, CloseReason::Drained);
            BridgeMessage {
                to: message.to.other(),
                crossing: abort,
            }
        });
        self.take_bridge_messages(aborts.collect());
    }

    /// Takes in what other ends of bridges have said.
    pub(in crate::shard) fn take_bridge_messages(&self, messages: Vec<BridgeMessage>) {
        let Some(inner) = &mut *self.streams.inner.borrow_mut() else {
            return;
        };
        for message in messages {
            let id = message.to;
            let Inner { driver, plane, .. } = inner;
            plane.handle_bridge(driver, message);
            if plane.is_bridge_aborted(id)
                && let Some(waker) = inner.waiting_for_abort.remove(&id)
            {
                crate::runtime::executor::wake(waker);
            }
        }
    }
}
