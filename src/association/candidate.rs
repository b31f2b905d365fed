//! One candidate of an association and its state; the diagram is in `table`.

use super::answer::Refusal;
use super::key::CandidateKey;

/// One possible route of an association.
pub(super) struct Candidate<L> {
    /// None: the implicit candidate, which the one-id form means.
    pub(super) key: Option<CandidateKey>,
    /// Which acceptance this is; a handle names one and goes stale with it.
    pub(super) turn: u32,
    pub(super) state: State<L>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State<L> {
    /// Nobody waits.
    Initial,
    /// This acceptor waits.
    Waiting(L),
    /// The pair is joined.
    Connected,
    /// The pair has ended.
    Final,
}

/// The candidates of one association, in the order in which they were added.
/// One is the usual number, and needs no memory of its own.
pub(super) enum Candidates<L> {
    None,
    One(Candidate<L>),
    Many(Vec<Candidate<L>>),
}

impl<L: Copy> Candidate<L> {
    /// `leg` waits from now on, as acceptance number `turn`; gives the acceptor
    /// that waited until now.
    pub(super) fn accept(&mut self, leg: L, turn: u32) -> Result<Option<L>, Refusal> {
        let replaced = match self.state {
            State::Initial | State::Final => None,
            State::Waiting(old) => Some(old),
            State::Connected => return Err(Refusal::AlreadyConnected),
        };
        self.turn = turn;
        self.state = State::Waiting(leg);
        Ok(replaced)
    }

    /// Joins the acceptor that waits, and gives it.
    pub(super) fn connect(&mut self) -> Result<L, Refusal> {
        match self.state {
            State::Initial => Err(Refusal::NotWaiting),
            State::Final => Err(Refusal::Ended),
            State::Connected => Err(Refusal::AlreadyConnected),
            State::Waiting(acceptor) => {
                self.state = State::Connected;
                Ok(acceptor)
            }
        }
    }
}

impl<L> Candidates<L> {
    pub(super) fn as_slice(&self) -> &[Candidate<L>] {
        match self {
            Self::None => &[],
            Self::One(candidate) => std::slice::from_ref(candidate),
            Self::Many(candidates) => candidates,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Candidate<L>] {
        match self {
            Self::None => &mut [],
            Self::One(candidate) => std::slice::from_mut(candidate),
            Self::Many(candidates) => candidates,
        }
    }

    /// Where the candidate with this key is; the implicit one has none.
    pub(super) fn position(&self, key: Option<CandidateKey>) -> Option<usize> {
        self.as_slice().iter().position(|c| c.key == key)
    }

    /// Where a connector is to try: at the candidate that it names; without a
    /// name at the implicit one if an acceptor waits there, otherwise at the
    /// first where one does.
    pub(super) fn to_connect(&self, key: Option<CandidateKey>) -> Result<usize, Refusal> {
        if key.is_some() {
            return self.position(key).ok_or(Refusal::NotFound);
        }
        let is_waiting = |c: &Candidate<L>| matches!(c.state, State::Waiting(_));
        self.position(None)
            .filter(|position| is_waiting(&self.as_slice()[*position]))
            .or_else(|| self.as_slice().iter().position(is_waiting))
            .ok_or(if self.is_any_connected() {
                Refusal::AlreadyConnected
            } else {
                Refusal::NotWaiting
            })
    }

    pub(super) fn is_any_connected(&self) -> bool {
        self.as_slice()
            .iter()
            .any(|c| matches!(c.state, State::Connected))
    }

    /// Adds a candidate at the end, and gives its position.
    pub(super) fn push(
        &mut self,
        key: Option<CandidateKey>,
        candidates_max: u8,
    ) -> Result<usize, Refusal> {
        let position = self.as_slice().len();
        if position >= usize::from(candidates_max) {
            return Err(Refusal::Full);
        }
        let candidate = Candidate {
            key,
            turn: 0,
            state: State::Initial,
        };
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(candidate),
            Self::One(first) => Self::Many(vec![first, candidate]),
            Self::Many(mut candidates) => {
                candidates.push(candidate);
                Self::Many(candidates)
            }
        };
        Ok(position)
    }

    /// Bytes beside the association's slot.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::None | Self::One(_) => 0,
            Self::Many(candidates) => candidates.capacity() * size_of::<Candidate<L>>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: State<u8>, accept: Result<Option<u8>, Refusal>, connect: Result<u8, Refusal>) {
        let candidate = || Candidate {
            key: None,
            turn: 1,
            state: before,
        };
        let mut accepted = candidate();
        assert_eq!(accepted.accept(9, 2), accept, "accept in {before:?}");
        let after = accept.map_or(before, |_| State::Waiting(9));
        assert_eq!(accepted.state, after, "after accept in {before:?}");
        assert_eq!(accepted.turn, if accept.is_ok() { 2 } else { 1 });

        let mut connected = candidate();
        assert_eq!(connected.connect(), connect, "connect in {before:?}");
        let after = connect.map_or(before, |_| State::Connected);
        assert_eq!(connected.state, after, "after connect in {before:?}");
        assert_eq!(connected.turn, 1);
    }

    #[test]
    fn transitions() {
        use Refusal::{AlreadyConnected, Ended, NotWaiting};
        check(State::Initial, Ok(None), Err(NotWaiting));
        check(State::Waiting(4), Ok(Some(4)), Ok(4));
        check(
            State::Connected,
            Err(AlreadyConnected),
            Err(AlreadyConnected),
        );
        check(State::Final, Ok(None), Err(Ended));
    }

    #[test]
    fn candidates_keep_their_order_up_to_the_limit() {
        let mut candidates: Candidates<u64> = Candidates::None;
        let keys: Vec<_> = (0..4)
            .map(|n| (n > 0).then(|| CandidateKey(uuid::Uuid::from_u128(n))))
            .collect();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(candidates.position(*key), None);
            assert_eq!(candidates.push(*key, 4), Ok(n));
            assert_eq!(candidates.as_mut_slice().len(), n + 1);
        }
        assert_eq!(candidates.push(None, 4), Err(Refusal::Full));
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(candidates.position(*key), Some(n));
        }
    }
}
