//! Users who prove a password without saying it: `[WEBSOCKS]`, "Auth".
//!
//! What is kept of a password is the base64 of its SHA-256, without which the proof could
//! not be checked. Whoever has that can make proofs as its user can; so the file that
//! holds it is as secret as the password, unlike that of API keys.
//!
//! A proof is good for three minutes and can be repeated in them, as known clients do. It
//! keeps the password from whoever listens, and nothing else: that is for TLS.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What is kept of a password: base64, with padding, of its SHA-256. Never shown by
/// `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordDigest(String);

/// Not what is kept of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordDigestError {
    /// It is something else.
    #[error("a password is kept as the base64 of its SHA-256, 44 characters")]
    NoDigest,
    /// Most likely of a variable that was not set.
    #[error("this is the SHA-256 of no password at all")]
    NoPassword,
}

/// A user that the relay knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: Arc<str>,
    /// What is kept of the password.
    pub password: PasswordDigest,
}

/// All users of a relay. All shards have the same.
///
/// INVARIANT: they are in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(Arc<[User]>);

impl PasswordDigest {
    /// Of this password, in UTF-8.
    #[must_use]
    pub fn of(password: &str) -> Self {
        Self(STANDARD.encode(digest(&SHA256, password.as_bytes())))
    }

    /// The proof in the minute of `now`, since 1970.
    #[must_use]
    pub fn proof(&self, now: Duration) -> String {
        self.proof_in(now.as_secs() / 60)
    }

    /// Whether this proves it at `now`, or a minute before or after. How long this takes
    /// does not depend on the proof.
    fn is_proved(&self, proof: &str, now: Duration) -> bool {
        let minute = now.as_secs() / 60;
        let minutes = [minute.saturating_sub(1), minute, minute + 1];
        let is_proof = |minute: u64| {
            let expected = self.proof_in(minute);
            verify_slices_are_equal(expected.as_bytes(), proof.as_bytes()).is_ok()
        };
        // All of them, whichever it is.
        minutes.map(is_proof).contains(&true)
    }

    fn proof_in(&self, minute: u64) -> String {
        let salted = format!("{}{}", self.0, minute * 60_000);
        STANDARD.encode(digest(&SHA256, salted.as_bytes()))
    }
}

impl Users {
    /// These users, whose names differ.
    #[must_use]
    pub fn new(mut users: Vec<User>) -> Self {
        users.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Self(users.into())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every user.
    #[must_use]
    pub fn all(&self) -> &[User] {
        &self.0
    }

    /// The user with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&User> {
        let index = self.0.binary_search_by(|user| (*user.name).cmp(name));
        index.ok().map(|index| &self.0[index])
    }

    /// The user with this name, if at `now` since 1970 this proves the password. Of an
    /// unknown name as much is computed as of a known one.
    #[must_use]
    pub fn authenticate(&self, name: &str, proof: &str, now: Duration) -> Option<&User> {
        // As long as any.
        let nobody = PasswordDigest("=".repeat(44));
        let user = self.find(name);
        let password = user.map_or(&nobody, |user| &user.password);
        let is_proved = password.is_proved(proof, now);
        user.filter(|_| is_proved)
    }
}

impl FromStr for PasswordDigest {
    type Err = PasswordDigestError;

    fn from_str(written: &str) -> Result<Self, PasswordDigestError> {
        match STANDARD.decode(written) {
            Ok(bytes) if bytes.len() != SHA256_OUTPUT_LEN => Err(PasswordDigestError::NoDigest),
            Ok(_) if written == Self::of("").0 => Err(PasswordDigestError::NoPassword),
            Ok(_) => Ok(Self(written.to_owned())),
            Err(_) => Err(PasswordDigestError::NoDigest),
        }
    }
}

/// As the configuration has it.
impl fmt::Display for PasswordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PasswordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordDigest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a run of the reference implementation, with one line of another's.
    const PROOFS: [(&str, u64, &str); 7] = [
        (
            "pasSw0rD",
            0,
            "YdfVOUiRW4nJsNw0fAAjE8dRm5GO42PTWtZobEFIieA=",
        ),
        (
            "pasSw0rD",
            1_554_087_960_000,
            "zcuYQ4BSCBxji+FRlsWatCZMZY/c130sfXa9gLDl6XM=",
        ),
        (
            "pasSw0rD",
            1_577_836_800_000,
            "oZewWY8NxJz7ntRS+n6jeWNa78HB/IGGEOe0JuPaEzQ=",
        ),
        (
            "PaSsw0Rd",
            1_577_836_800_000,
            "FZ+JazO/nwb76rcJJgM2a8TvGOB4eUnkZrZpcyXxXMY=",
        ),
        (
            "",
            1_577_836_800_000,
            "Bx+G+L6dLgV3FNQsyA/eQT6ZnSo+dI/F9Ik+AvbOi3I=",
        ),
        (
            "пароль-密码",
            1_577_836_800_000,
            "GIcb7pQ8pngM2aa2Gds1hoZKF45SdUf2d5loc7XeePM=",
        ),
        (
            "pasSw0rD",
            1_795_223_580_000,
            "odjTb4kR6eySPWNGcS+ibPuAAVYX5/gV2mleYB811yg=",
        ),
    ];

    #[test]
    fn proofs_are_those_of_known_programs() {
        for (password, minute_ms, expected) in PROOFS {
            let now = Duration::from_millis(minute_ms + 59_999);
            assert_eq!(PasswordDigest::of(password).proof(now), expected);
        }
        let kept = PasswordDigest::of("pasSw0rD").to_string();
        assert_eq!(kept, "AUiBnFUd+h5Wy2jsmdfmwRdKqTMBVNPuxZcRy3PYkxk=");
        assert_eq!(kept.parse(), Ok(PasswordDigest::of("pasSw0rD")));
    }

    #[test]
    fn a_proof_is_good_for_three_minutes_and_one_user() {
        let user = |name: &str, password: &str| User {
            name: name.into(),
            password: PasswordDigest::of(password),
        };
        let users = Users::new(vec![user("alice", "pasSw0rD"), user("bob", "other")]);
        let minute = |minutes: u64| Duration::from_secs(1_577_836_800 + 60 * minutes);
        let proof = PasswordDigest::of("pasSw0rD").proof(minute(5));
        let check = |name: &str, proof: &str, minutes: u64| {
            let user = users.authenticate(name, proof, minute(minutes));
            user.map(|user| &*user.name)
        };
        for (minutes, expected) in [
            (3, None),
            (4, Some("alice")),
            (5, Some("alice")),
            (6, Some("alice")),
            (7, None),
            (5 + 24 * 60, None),
        ] {
            assert_eq!(check("alice", &proof, minutes), expected, "{minutes}");
        }
        assert_eq!(check("bob", &proof, 5), None);
        assert_eq!(check("carol", &proof, 5), None);
        assert_eq!(check("alice", "pasSw0rD", 5), None);
        assert_eq!(check("alice", "", 5), None);
        // Whoever is unknown has no password that could be proved.
        let nobodys = PasswordDigest("=".repeat(44)).proof(minute(5));
        assert_eq!(check("carol", &nobodys, 5), None);
    }

    #[test]
    fn what_is_kept_has_one_form_and_is_not_shown() {
        for wrong in [
            "",
            "pasSw0rD",
            "AUiBnFUd+h5Wy2jsmdfmwRdKqTMBVNPuxZcRy3PYkxk",
        ] {
            let parsed = wrong.parse::<PasswordDigest>();
            assert_eq!(parsed, Err(PasswordDigestError::NoDigest));
        }
        let parsed = PasswordDigest::of("").to_string().parse::<PasswordDigest>();
        assert_eq!(parsed, Err(PasswordDigestError::NoPassword));
        assert!(!format!("{:?}", PasswordDigest::of("x")).contains('='));
    }
}
