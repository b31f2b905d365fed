//! Which cores the shards run on.

use std::fmt;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of this process's shards, one shard each, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

/// Why a choice of cores cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    #[error("cores: at least one is needed")]
    None,
    #[error("cores: this process may not use core {core}, only {list}")]
    NotUsable { core: usize, list: Cores },
    #[error("cores: core {core} is named twice")]
    Twice { core: usize },
}

impl Cores {
    /// Every core that the calling thread may run on.
    ///
    /// # Errors
    ///
    /// Whatever `sched_getaffinity(2)` says.
    pub fn usable() -> io::Result<Self> {
        let set = sched_getaffinity(None)?;
        Ok(Self(
            (0..CpuSet::MAX_CPU)
                .filter(|core| set.is_set(*core))
                .collect(),
        ))
    }

    /// Exactly the cores in `wanted`.
    ///
    /// # Errors
    ///
    /// When one is not among these, or is named twice, since two shards on one
    /// core would only take turns; or when none is named.
    pub fn select(self, wanted: &[usize]) -> Result<Self, CoresError> {
        if wanted.is_empty() {
            return Err(CoresError::None);
        }
        let mut sorted = wanted.to_vec();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CoresError::Twice { core: pair[0] });
        }
        match sorted.iter().find(|core| !self.0.contains(core)) {
            Some(&core) => Err(CoresError::NotUsable { core, list: self }),
            None => Ok(Self(sorted)),
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The core numbers, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

/// Keeps the calling thread, and those that it starts, on one core.
///
/// # Errors
///
/// `EINVAL` when this process may not use that core, or has no such core.
pub fn pin_thread(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, core) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{core}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> Cores {
        Cores(vec![0, 2, 3])
    }

    #[test]
    fn takes_the_named_ones() {
        assert_eq!(usable().select(&[3, 0]), Ok(Cores(vec![0, 3])));
        assert_eq!(
            usable().select(&[1]),
            Err(CoresError::NotUsable {
                core: 1,
                list: usable()
            })
        );
        assert_eq!(usable().select(&[2, 2]), Err(CoresError::Twice { core: 2 }));
        assert_eq!(usable().select(&[]), Err(CoresError::None));
    }
}
