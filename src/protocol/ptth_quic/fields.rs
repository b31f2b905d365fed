//! What bodies consist of: numbers, and bytes behind their count.

use super::fault::MessageFault;
use super::id::{WireId, WireIdError};

/// A body, or what is left of it.
pub(super) struct Fields<'bytes>(&'bytes [u8]);

impl<'bytes> Fields<'bytes> {
    pub(super) const fn new(body: &'bytes [u8]) -> Self {
        Self(body)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'bytes [u8], MessageFault> {
        let (bytes, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(MessageFault::Overrun)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageFault> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(MessageFault::Overrun)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, MessageFault> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MessageFault> {
        self.array().map(u16::from_be_bytes)
    }

    /// A name behind its count, which `wrong` says what it is of.
    pub(super) fn id(
        &mut self,
        wrong: impl FnOnce(WireIdError) -> MessageFault,
    ) -> Result<WireId, MessageFault> {
        let count = self.u8()?;
        let bytes = self.bytes(count.into())?;
        WireId::try_from(bytes).map_err(wrong)
    }

    /// What is left.
    pub(super) const fn rest(self) -> &'bytes [u8] {
        self.0
    }
}
