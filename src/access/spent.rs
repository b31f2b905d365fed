//! Tokens that serve once, and were used: remembered until they are good no more, so
//! that whoever sees one in passing has nothing of it.
//!
//! Left out: remembering them beyond a restart.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use ahash::RandomState;
use aws_lc_rs::digest::{Context, SHA256};

use super::keyring::Denied;

/// Names one token of one issuer: the first 16 bytes of SHA-256(issuer ‖ 0 ‖ `jti`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 16]);

/// A token that serves once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SingleUse {
    /// Which.
    pub id: TokenId,
    /// When it is good no more, clocks that differ included; since 1970.
    pub until: Duration,
}

/// The tokens that were used.
#[derive(Debug, Default)]
pub struct SpentTokens {
    ids: HashSet<TokenId, RandomState>,
    /// INVARIANT: holds exactly `ids`, by when they may be forgotten.
    by_end: BTreeSet<(Duration, TokenId)>,
}

impl TokenId {
    /// Of what `issuer` numbered `jti` (RFC 7519 §4.1.7).
    #[must_use]
    pub(super) fn new(issuer: &str, jti: &str) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [issuer.as_bytes(), &[0], jti.as_bytes()] {
            context.update(part);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(id)
    }
}

impl SpentTokens {
    /// Uses a token at `now`, since 1970. At most `tokens_max` are remembered.
    ///
    /// # Errors
    ///
    /// [`Denied::Spent`]; [`Denied::TooManySpent`]; [`Denied::Expired`].
    pub fn spend(
        &mut self,
        token: SingleUse,
        now: Duration,
        tokens_max: usize,
    ) -> Result<(), Denied> {
        // It may have expired on its way here, and would not be remembered.
        if token.until < now {
            return Err(Denied::Expired);
        }
        while let Some((until, id)) = self.by_end.first().copied()
            && until < now
        {
            self.by_end.pop_first();
            self.ids.remove(&id);
        }
        if self.ids.contains(&token.id) {
            return Err(Denied::Spent);
        }
        if self.ids.len() >= tokens_max {
            return Err(Denied::TooManySpent);
        }
        self.ids.insert(token.id);
        self.by_end.insert((token.until, token.id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(jti: &str, until_s: u64) -> SingleUse {
        SingleUse {
            id: TokenId::new("idp", jti),
            until: Duration::from_secs(until_s),
        }
    }

    #[test]
    fn a_token_serves_once_and_is_forgotten_when_it_has_expired() {
        let mut spent = SpentTokens::default();
        let mut spend = |token, now_s| spent.spend(token, Duration::from_secs(now_s), 2);
        assert_eq!(spend(token("a", 10), 1), Ok(()));
        assert_eq!(spend(token("a", 10), 1), Err(Denied::Spent));
        // Still good at this very moment, and so still remembered.
        assert_eq!(spend(token("a", 10), 10), Err(Denied::Spent));
        assert_eq!(spend(token("a", 10), 11), Err(Denied::Expired));
        assert_eq!(spend(token("b", 20), 10), Ok(()));
        assert_eq!(spend(token("c", 20), 10), Err(Denied::TooManySpent));
        assert_eq!(spend(token("c", 20), 11), Ok(()));
        assert_eq!(spend(token("b", 20), 11), Err(Denied::Spent));
    }

    #[test]
    fn issuers_number_their_own_tokens() {
        assert_ne!(TokenId::new("a", "1"), TokenId::new("b", "1"));
        assert_ne!(TokenId::new("a", "1"), TokenId::new("a", "2"));
    }
}
