//! Who may do what: credentials and their scopes, sans-IO.
//!
//! Of a key a relay keeps the hash: whoever reads that can do nothing with it. A key is 24
//! random bytes, so that a plain SHA-256 of it is as good as any slower hash. An issuer of
//! tokens is known by its public key alone. Of a user's password it keeps what proofs are
//! made of, which is as secret as the password; see `user.rs`.
//!
//! [`egress`] says where the relay may dial for others, [`Awaiting`] where it awaits somebody
//! for them, and [`routing`] what a local agent
//! does with a destination; [`forwarding`] who serves and uses forwarded ports, and [`jproxy`]
//! who comes by tunnels.
//!
//! Left out: where keys come from (that is `config`), and what an answer to a peer
//! without one looks like (that is `session`).

mod allowance;
mod api_key;
mod awaiting;
pub mod egress;
mod fingerprint;
pub mod forwarding;
mod guesses;
pub mod jproxy;
mod keyring;
mod rate;
pub mod routing;
mod spent;
mod token;
mod user;

pub use allowance::{Allowance, Allowances};
pub use api_key::{ApiKey, KEY_PREFIX, KeyHash, KeyHashError, Presented};
pub use awaiting::Awaiting;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use guesses::Guesses;
pub use keyring::{Denied, Grant, KeyEntry, Keyring, Scope};
pub use rate::{Pace, Rates};
pub use spent::{SingleUse, SpentTokens, TokenId};
pub use token::{Issuer, IssuerError};
pub use user::{PasswordDigest, PasswordDigestError, User, Users};
