//! New keys: a file for the client, and one for the relay.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};

use super::user_name::{self, NameError};
use super::{CryptoFailed, SALT_BYTES, TunnelUser, client_key, user};

/// A new key, as both sides keep it.
pub struct KeyPair {
    /// What the client's file holds.
    pub client_file: Vec<u8>,
    /// What the user's file holds.
    pub user_file: Vec<u8>,
    /// How that has to be called.
    pub user_file_name: String,
}

/// Why there is no new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error(transparent)]
    Name(NameError),
    #[error(transparent)]
    Crypto(CryptoFailed),
}

impl KeyPair {
    /// Makes one for a user of this name.
    ///
    /// # Errors
    ///
    /// When nobody may be called so, or the system has no randomness.
    pub fn generate(name: &str) -> Result<Self, PairError> {
        user_name::check(name).map_err(PairError::Name)?;
        Self::of(name).map_err(|_| PairError::Crypto(CryptoFailed))
    }

    fn of(name: &str) -> Result<Self, Unspecified> {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048)?;
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt)?;
        let spki = key.public_key().as_der()?;
        let hash = user::hash(spki.as_ref(), &salt);
        Ok(Self {
            client_file: client_key::encode(key.as_der()?.as_ref(), &hash),
            user_file: user::encode(name, &salt, spki.as_ref()),
            user_file_name: TunnelUser::file_name(&hash),
        })
    }
}

/// Without both.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair")
            .field(&self.user_file_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;

    use super::super::{
        ClientKey, ClientKeyError, NameListed, TunnelUser, TunnelUsers, UserFileError,
    };
    use super::*;
    use crate::protocol::jproxy::SessionKey;

    fn pair(name: &str) -> (KeyPair, TunnelUser) {
        let pair = KeyPair::generate(name).expect("a key");
        let user = TunnelUser::decode(&pair.user_file_name, &pair.user_file);
        (pair, user.expect("a user's file"))
    }

    #[test]
    fn what_is_encrypted_for_a_user_its_client_alone_reads() {
        let (alices, alice) = pair("alice");
        let (bobs, bob) = pair("𝐁ob");
        assert_eq!(&**bob.name(), "𝐁ob");
        let [alices, bobs] =
            [alices, bobs].map(|pair| ClientKey::decode(&pair.client_file).expect("a key"));
        assert_eq!(alices.hash(), alice.hash());
        let key = SessionKey([7; 16]);
        let encrypted = alice.encrypt(&key).expect("encrypted");
        assert_eq!(alices.decrypt(&encrypted), key);
        // Others have a key all the same, each time another.
        let guesses = [bobs.decrypt(&encrypted), bobs.decrypt(&encrypted)];
        assert_ne!(guesses[0], key);
        assert_ne!(guesses[0], guesses[1]);
        for garbage in [[0; 256], [0xff; 256]] {
            assert_ne!(alices.decrypt(&garbage), alices.decrypt(&garbage));
        }
        assert_ne!(alice.encrypt(&key), Ok(encrypted));

        let users = TunnelUsers::new(vec![bob.into(), alice.into()]).expect("two names");
        let found = users.find(alices.hash()).map(|user| &**user.name());
        assert_eq!(found, Some("alice"));
        assert_eq!(
            users.named("alice").map(|user| user.hash()),
            Some(alices.hash())
        );
        assert_eq!(users.find(&[0; 32]), None);
        assert_eq!(users.named("carol"), None);
        assert_eq!(format!("{users:?}").matches("TunnelUser(\"").count(), 2);
    }

    #[test]
    fn a_key_of_another_length_inside_is_not_taken() {
        let (pair, user) = pair("alice");
        let client = ClientKey::decode(&pair.client_file).expect("a key");
        for bytes in [0, 15, 17, 245] {
            let encrypted = user.encrypt_bytes(&vec![7; bytes]).expect("encrypted");
            let keys = [client.decrypt(&encrypted), client.decrypt(&encrypted)];
            assert_ne!(keys[0], keys[1], "{bytes}");
        }
    }

    #[test]
    fn files_are_those_of_their_names() {
        let (pair, alice) = pair("alice");
        let decode = |name: &str| TunnelUser::decode(name, &pair.user_file);
        let lower = pair.user_file_name.to_lowercase();
        assert_eq!(decode(&lower).as_ref(), Ok(&alice));
        let name = &pair.user_file_name;
        for wrong in ["alice.dat", &name[1..], &name[..64], &format!("0{name}")] {
            assert_eq!(decode(wrong), Err(UserFileError::FileName), "{wrong}");
        }
        let content = *alice.hash();
        let other = format!("{}.dat", "0".repeat(64));
        assert_eq!(decode(&other), Err(UserFileError::OtherHash { content }));
        // Each of a pair's files is known for what it is where the other one is wanted.
        for name in [&**name, "alice.dat"] {
            let of_client = TunnelUser::decode(name, &pair.client_file);
            assert_eq!(of_client, Err(UserFileError::ClientKey), "{name}");
        }
        assert!(TunnelUser::is_file(&pair.user_file));
        assert!(!TunnelUser::is_file(&pair.client_file));
        let longer = [&*pair.user_file, b"\0"].concat();
        let longer = TunnelUser::decode(name, &longer);
        assert_eq!(longer, Err(UserFileError::Key));
        let longer = [&*pair.client_file, b"\0"].concat();
        let error = ClientKey::decode(&longer).expect_err("a byte more");
        assert_eq!(error, ClientKeyError::Long { bytes: 1 });

        let (_, second) = self::pair("alice");
        let hashes = [*alice.hash(), *second.hash()];
        let twice = TunnelUsers::new(vec![alice.into(), second.into()]);
        let name = "alice".into();
        assert_eq!(twice, Err(NameListed { name, hashes }));
    }

    #[test]
    fn keys_are_of_one_size() {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa3072).expect("a key");
        let spki = key.public_key().as_der().expect("DER");
        let salt = [7; SALT_BYTES];
        let name = TunnelUser::file_name(&user::hash(spki.as_ref(), &salt));
        let file = user::encode("alice", &salt, spki.as_ref());
        let bits = 3072;
        assert_eq!(
            TunnelUser::decode(&name, &file),
            Err(UserFileError::Bits { bits })
        );
        let pkcs8 = key.as_der().expect("DER");
        let file = client_key::encode(pkcs8.as_ref(), &[0; 32]);
        let error = ClientKey::decode(&file).expect_err("too long a key");
        assert_eq!(error, ClientKeyError::Bits { bits });
        let error = KeyPair::generate("a b").expect_err("two words");
        assert_eq!(error, PairError::Name(NameError));
    }
}
