//! Peers, each named for its misbehaviour.

pub(crate) mod dribbles;
pub(crate) mod floods;
pub(crate) mod half_closes;
pub(crate) mod resets;
pub(crate) mod says_anything;
pub(crate) mod stalls;
