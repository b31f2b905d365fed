//! What requests and replies have in common: a version, a number, and an address.

use thiserror::Error;

use super::VERSION;
use super::address::{AddressError, Destination};
use crate::protocol::Progress;

const HEADER_BYTES: usize = 3;

/// A request's command or a reply's code, and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: u8,
    pub(super) address: Destination,
}

/// Why bytes are neither request nor reply, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Another version.
    #[error("version {version} is not {VERSION}")]
    Version {
        /// What came.
        version: u8,
    },
    /// No address.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl Frame {
    /// Decodes what stands at the start of `bytes`. What the reserved byte holds means
    /// nothing.
    ///
    /// # Errors
    ///
    /// If no continuation of `bytes` could be one.
    pub(super) fn decode(bytes: &[u8]) -> Result<Progress<Self>, FrameError> {
        if let Some(version) = bytes.first()
            && *version != VERSION
        {
            return Err(FrameError::Version { version: *version });
        }
        let [_, number, _, address @ ..] = bytes else {
            let more_bytes_min = HEADER_BYTES + 5 - bytes.len();
            return Ok(Progress::Partial { more_bytes_min });
        };
        Ok(match Destination::decode(address)? {
            Progress::Partial { more_bytes_min } => Progress::Partial { more_bytes_min },
            Progress::Complete { value, consumed } => Progress::Complete {
                value: Self {
                    number: *number,
                    address: value,
                },
                consumed: HEADER_BYTES + consumed,
            },
        })
    }

    /// Appends one.
    pub(super) fn encode(number: u8, address: &Destination, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, number, 0]);
        address.encode(out);
    }
}
