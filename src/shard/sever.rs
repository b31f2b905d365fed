//! What is a part of something else ends with it.

use std::rc::Rc;

use super::world::World;
use crate::relay::CloseReason;
use crate::runtime::executor::{spawn, yield_now};

/// Ends the sessions with this context, as another one has broken that they belong to. Soon,
/// for the planes may still be telling what has ended.
pub fn sever<C, M>(world: &Rc<World<C, M>>, context: C)
where
    C: Copy + PartialEq + 'static,
    M: Send + 'static,
{
    let world = Rc::clone(world);
    spawn(async move {
        yield_now().await;
        world.end_sessions(CloseReason::Severed, |session| *session == context);
    });
}
