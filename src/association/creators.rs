//! What created an association, and how many each bearer of a credential holds.

use std::collections::HashMap;

use ahash::RandomState;

use super::answer::Refusal;

/// What stands for the bearer of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CreatorId(pub [u8; 16]);

/// What created an association: an accept, a request, or a request of the creator with
/// this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin(u32);

impl Origin {
    pub(super) const ACCEPT: Self = Self(u32::MAX);
    pub(super) const EXPLICIT: Self = Self(u32::MAX - 1);

    /// As explicit, by the creator with this number.
    pub(super) const fn by(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn creator(self) -> Option<u32> {
        (self != Self::ACCEPT && self != Self::EXPLICIT).then_some(self.0)
    }
}

/// The bearers that asked for associations, numbered.
///
/// INVARIANT: bearers are those that the operator lists, so that there are not many, and
/// none is ever forgotten.
#[derive(Debug, Default)]
pub(super) struct Creators {
    numbers: HashMap<CreatorId, u32, RandomState>,
    /// Associations of each.
    held: Vec<u32>,
}

impl Creators {
    /// Counts one more for a bearer, unless it has `held_max`; 0 is no limit. Gives the
    /// bearer's number.
    pub(super) fn enter(&mut self, id: CreatorId, held_max: u32) -> Result<u32, Refusal> {
        let next = self.held.len();
        let number = *self
            .numbers
            .entry(id)
            .or_insert_with(|| u32::try_from(next).unwrap_or(u32::MAX));
        if number as usize == next {
            self.held.push(0);
        }
        let held = &mut self.held[number as usize];
        if held_max > 0 && *held >= held_max {
            return Err(Refusal::TooMany);
        }
        *held += 1;
        Ok(number)
    }

    /// One of a bearer's associations is gone.
    pub(super) fn leave(&mut self, number: u32) {
        self.held[number as usize] -= 1;
    }

    /// Associations of all bearers.
    pub(super) fn total(&self) -> u32 {
        self.held.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bearer_is_counted_for_itself() {
        let (one, other) = (CreatorId([1; 16]), CreatorId([2; 16]));
        let mut creators = Creators::default();
        let number = creators.enter(one, 2).unwrap();
        assert_eq!(creators.enter(one, 2), Ok(number));
        assert_eq!(creators.enter(one, 2), Err(Refusal::TooMany));
        assert_ne!(creators.enter(other, 2), Ok(number));
        creators.leave(number);
        assert_eq!(creators.enter(one, 2), Ok(number));
        assert_eq!(creators.enter(one, 0), Ok(number));
        assert_eq!(creators.total(), 4);
    }
}
