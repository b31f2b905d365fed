//! Randomness that nobody can predict.

use aws_lc_rs::rand;

/// Random bytes, fit for a credential.
///
/// # Panics
///
/// When the system has none: what is drawn then could be guessed, and better
/// no proxy than that.
pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    assert!(
        rand::fill(&mut bytes).is_ok(),
        "the system gives no random bytes"
    );
    bytes
}

/// Seeds the calling thread's generator, which takes some 20 ms: better at its
/// start than within somebody's first connection.
pub(super) fn seed_randomness() {
    let _: [u8; 1] = random_bytes();
}

/// A uniform number.
pub(super) fn random_number() -> u64 {
    u64::from_be_bytes(random_bytes())
}
