//! Whom a relay knows by jProxy, and what it encrypts for each of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use data_encoding::{HEXLOWER_PERMISSIVE, HEXUPPER};

use super::user_name::{self, NameError};
use super::{ClientKey, CryptoFailed, RSA_BITS, SALT_BYTES, UserHash};
use crate::protocol::jproxy::{ENCRYPTED_KEY_BYTES, SessionKey};

/// How the name of a user's file ends, behind its hash.
pub const USER_FILE_SUFFIX: &str = ".dat";

/// A user that the relay knows.
pub struct TunnelUser {
    name: Arc<str>,
    hash: UserHash,
    key: Pkcs1PublicEncryptingKey,
}

/// All users of a relay, by their hashes and by their names. All shards have the same.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TunnelUsers(Arc<Listed>);

#[derive(Default, PartialEq, Eq)]
struct Listed {
    /// INVARIANT: in the order of their names, which differ.
    users: Vec<Arc<TunnelUser>>,
    /// Indices, by hash.
    of: HashMap<UserHash, usize, RandomState>,
}

/// Why a file is none of a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserFileError {
    /// It has another name than users' files have.
    #[error("the file's name is not 64 hexadecimal digits and \"{USER_FILE_SUFFIX}\"")]
    FileName,
    /// What the user itself has.
    #[error("it is a client's key")]
    ClientKey,
    /// It is cut off, or something else.
    #[error("it ends within the user's {what}")]
    Short { what: &'static str },
    /// Nobody may be called so.
    #[error(transparent)]
    Name(NameError),
    /// No key, one that is written in another way than all write it, or one of another kind.
    #[error("what follows the salt is no public key of RSA (SubjectPublicKeyInfo, DER)")]
    Key,
    /// RSA of another size.
    #[error("the key has {bits} bits; jProxy needs {RSA_BITS}")]
    Bits { bits: usize },
    /// The content is that of another name.
    #[error("its content is that of {}{USER_FILE_SUFFIX}", HEXUPPER.encode(.content))]
    OtherHash { content: UserHash },
}

/// A name that two users have, each with its hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the user \"{name}\" is listed twice: by {}{USER_FILE_SUFFIX} and {}{USER_FILE_SUFFIX}",
    HEXUPPER.encode(&.hashes[0]), HEXUPPER.encode(&.hashes[1])
)]
pub struct NameListed {
    pub name: Arc<str>,
    pub hashes: [UserHash; 2],
}

impl TunnelUser {
    /// Reads what a file of this name holds.
    ///
    /// # Errors
    ///
    /// When it is no user's, or another's.
    pub fn decode(file_name: &str, bytes: &[u8]) -> Result<Self, UserFileError> {
        // Its beginning is none of a user's file, which has a name there.
        if ClientKey::decode(bytes).is_ok() {
            return Err(UserFileError::ClientKey);
        }
        let named = Self::hash_of_file(file_name).ok_or(UserFileError::FileName)?;
        let user = Self::decode_content(bytes)?;
        match user.hash == named {
            true => Ok(user),
            false => Err(UserFileError::OtherHash { content: user.hash }),
        }
    }

    /// The hash by which a file is called.
    #[must_use]
    pub fn hash_of_file(file_name: &str) -> Option<UserHash> {
        let digits = file_name.strip_suffix(USER_FILE_SUFFIX)?;
        let hash = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
        hash.try_into().ok()
    }

    /// How the file of who has this hash is called.
    #[must_use]
    pub fn file_name(hash: &UserHash) -> String {
        HEXUPPER.encode(hash) + USER_FILE_SUFFIX
    }

    fn decode_content(bytes: &[u8]) -> Result<Self, UserFileError> {
        let (name, rest) = split_name(bytes)?;
        let salted = rest.split_at_checked(SALT_BYTES);
        let (salt, spki) = salted.ok_or(UserFileError::Short { what: "salt" })?;
        let key = PublicEncryptingKey::from_der(spki).map_err(|_| UserFileError::Key)?;
        // The library passes over what follows a key, and the hash does not.
        let written = key.as_der().map_err(|_| UserFileError::Key)?;
        if written.as_ref() != spki {
            return Err(UserFileError::Key);
        }
        match key.key_size_bits() {
            RSA_BITS => {}
            bits => return Err(UserFileError::Bits { bits }),
        }
        Ok(Self {
            name: name.into(),
            hash: hash(spki, salt),
            key: Pkcs1PublicEncryptingKey::new(key).map_err(|_| UserFileError::Key)?,
        })
    }

    /// Whose file it seems to be, of one that is cut off or damaged behind the name.
    #[must_use]
    pub fn name_in(bytes: &[u8]) -> Option<String> {
        split_name(bytes).ok().map(|(name, _)| name)
    }

    /// Whether this is what a user's file holds, of whatever name.
    #[must_use]
    pub fn is_file(bytes: &[u8]) -> bool {
        Self::decode_content(bytes).is_ok()
    }

    /// Its name, one word.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// By which it logs in.
    #[must_use]
    pub const fn hash(&self) -> &UserHash {
        &self.hash
    }

    /// A tunnel's key, for whoever has the user's private key. Each time it comes out
    /// differently.
    ///
    /// # Errors
    ///
    /// When the system has no randomness.
    pub fn encrypt(&self, key: &SessionKey) -> Result<[u8; ENCRYPTED_KEY_BYTES], CryptoFailed> {
        self.encrypt_bytes(&key.0)
    }

    /// At most 245 bytes: 11 are padding's.
    pub(super) fn encrypt_bytes(
        &self,
        bytes: &[u8],
    ) -> Result<[u8; ENCRYPTED_KEY_BYTES], CryptoFailed> {
        let mut encrypted = [0; ENCRYPTED_KEY_BYTES];
        let written = self.key.encrypt(bytes, &mut encrypted);
        let is_whole = written.is_ok_and(|written| written.len() == ENCRYPTED_KEY_BYTES);
        is_whole.then_some(encrypted).ok_or(CryptoFailed)
    }
}

/// The name at the beginning of a user's file, and what follows.
fn split_name(bytes: &[u8]) -> Result<(String, &[u8]), UserFileError> {
    let short = UserFileError::Short { what: "name" };
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| short.clone())?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (name, rest) = rest.split_at_checked(length).ok_or(short)?;
    let name = user_name::decode(name).map_err(UserFileError::Name)?;
    Ok((name, rest))
}

/// By which a user with this key and salt logs in.
pub(super) fn hash(spki: &[u8], salt: &[u8]) -> UserHash {
    let mut context = Context::new(&SHA256);
    context.update(spki);
    context.update(salt);
    let mut hash = UserHash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// What a user's file holds.
pub(super) fn encode(name: &str, salt: &[u8; SALT_BYTES], spki: &[u8]) -> Vec<u8> {
    let name = user_name::encode(name);
    let length = u16::try_from(name.len()).expect("a name is short");
    [&length.to_be_bytes(), &*name, salt, spki].concat()
}

impl PartialEq for TunnelUser {
    /// The hash is of the key.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.hash == other.hash
    }
}

impl Eq for TunnelUser {}

/// Without what is secret.
impl fmt::Debug for TunnelUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TunnelUser").field(&self.name).finish()
    }
}

impl TunnelUsers {
    /// These users.
    ///
    /// # Errors
    ///
    /// When two have one name.
    pub fn new(mut users: Vec<Arc<TunnelUser>>) -> Result<Self, NameListed> {
        users.sort_by(|one, other| one.name.cmp(&other.name));
        for pair in users.windows(2) {
            let [one, other] = pair else { continue };
            if one.name == other.name {
                return Err(NameListed {
                    name: Arc::clone(&one.name),
                    hashes: [one.hash, other.hash],
                });
            }
        }
        let indexed = users.iter().enumerate();
        let of = indexed.map(|(index, user)| (user.hash, index)).collect();
        Ok(Self(Arc::new(Listed { users, of })))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.users.is_empty()
    }

    /// Every user, in the order of their names.
    #[must_use]
    pub fn all(&self) -> &[Arc<TunnelUser>] {
        &self.0.users
    }

    /// Who logs in by this hash.
    #[must_use]
    pub fn find(&self, hash: &UserHash) -> Option<&Arc<TunnelUser>> {
        self.0.of.get(hash).map(|index| &self.0.users[*index])
    }

    /// The user with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<TunnelUser>> {
        let users = &self.0.users;
        let index = users.binary_search_by(|user| (**user.name()).cmp(name));
        index.ok().map(|index| &users[index])
    }
}

/// Their names.
impl fmt::Debug for TunnelUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TunnelUsers").field(&self.0.users).finish()
    }
}
