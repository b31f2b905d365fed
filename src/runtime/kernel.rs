//! Can this host run a shard? Asked once at start, so that a missing thing is
//! named together with what to do about it.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ring::{Ring, RingSize};

/// The oldest kernel that has everything a shard needs: `DEFER_TASKRUN`
/// (6.1), with multishot accept and poll and ring messages before it.
pub const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// Memory that glommio wants to be able to lock, per its own check.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// What helps where too little memory can be locked.
pub(super) const MEMLOCK_ADVICE: &str = "raise the memlock limit, which all programs of one user \
                                         share (ulimit -l 8192, or LimitMEMLOCK=8M in systemd)";

/// Descriptors below which a relay is refused rather than started to fail.
pub const DESCRIPTORS_MIN: u64 = 128;

/// What this kernel offers beyond the floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// The soft limit on descriptors, after it was raised to the hard one.
    pub descriptors_max: u64,
    /// A sleep can gather completions (Linux 6.12).
    pub min_wait: bool,
    /// Provided buffers can be bundled (Linux 6.10).
    pub bundles: bool,
}

/// Something that this host does not give, and the next step.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error(
        "this kernel is {release}, and midspan needs Linux {}.{} or newer; \
         next step: boot a newer kernel",
        KERNEL_FLOOR.0,
        KERNEL_FLOOR.1
    )]
    Kernel { release: String },
    #[error(
        "io_uring is disabled by sysctl (kernel.io_uring_disabled = {value}); \
         next step: sysctl -w kernel.io_uring_disabled=0{}",
        if *value == 1 { ", or run with CAP_SYS_ADMIN or in kernel.io_uring_group" } else { "" }
    )]
    DisabledBySysctl { value: u32 },
    #[error(
        "io_uring is refused (EPERM) although no sysctl disables it: most likely a \
         container's seccomp profile; next step: allow io_uring_setup, io_uring_enter and \
         io_uring_register there (Docker: --security-opt seccomp=PROFILE.json)"
    )]
    RefusedBySeccomp,
    #[error(
        "this kernel was built without io_uring (ENOSYS) or a container's seccomp profile \
         hides it; next step: allow the io_uring system calls, or boot a kernel with \
         CONFIG_IO_URING"
    )]
    NotBuiltIn,
    #[error(
        "a ring cannot be allocated (ENOMEM) with {limit_bytes} bytes of lockable memory; \
         next step: {MEMLOCK_ADVICE}"
    )]
    RingMemory { limit_bytes: u64 },
    #[error(
        "lockable memory is limited to {limit_bytes} bytes and {MEMLOCK_BYTES_MIN} are needed; \
         next step: {MEMLOCK_ADVICE}"
    )]
    Memlock { limit_bytes: u64 },
    #[error(
        "only {limit} descriptors are allowed and {DESCRIPTORS_MIN} are the least; \
         next step: raise the limit (ulimit -n 65536, or LimitNOFILE=65536 in systemd)"
    )]
    Descriptors { limit: u64 },
    #[error("io_uring cannot be set up")]
    Ring(#[source] io::Error),
}

/// Raises the soft descriptor limit to the hard one, then checks everything
/// that a shard needs.
///
/// # Errors
///
/// The first thing that is missing, with the next step.
pub fn probe() -> Result<Features, Missing> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if parse_release(&release).is_some_and(|version| version < KERNEL_FLOOR) {
        return Err(Missing::Kernel { release });
    }
    let descriptors_max = raise_descriptors();
    if descriptors_max < DESCRIPTORS_MIN {
        return Err(Missing::Descriptors {
            limit: descriptors_max,
        });
    }
    let limit_bytes = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    if limit_bytes < MEMLOCK_BYTES_MIN {
        return Err(Missing::Memlock { limit_bytes });
    }
    let ring = Ring::new(RingSize::default()).map_err(|error| explain(error, io_uring_sysctl()))?;
    Ok(Features {
        kernel_release: release,
        descriptors_max,
        min_wait: ring.has_min_wait(),
        bundles: ring.has_bundles(),
    })
}

/// Turns what `io_uring_setup(2)` said into what is missing. `sysctl` is
/// `kernel.io_uring_disabled`, where the kernel has it (Linux 6.6).
fn explain(error: io::Error, sysctl: Option<u32>) -> Missing {
    match (error.raw_os_error(), sysctl) {
        (Some(libc::EPERM), Some(value)) if value > 0 => Missing::DisabledBySysctl { value },
        (Some(libc::EPERM | libc::EACCES), _) => Missing::RefusedBySeccomp,
        (Some(libc::ENOSYS), _) => Missing::NotBuiltIn,
        (Some(libc::ENOMEM), _) => Missing::RingMemory {
            limit_bytes: getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX),
        },
        _ => Missing::Ring(error),
    }
}

fn io_uring_sysctl() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Raising to the hard limit needs no privilege; if it fails, the old one holds.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Major and minor of a release such as `6.18.44-generic`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_releases() {
        for (release, expected) in [
            ("6.18.44-generic", Some((6, 18))),
            ("6.1", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("linux", None),
        ] {
            assert_eq!(parse_release(release), expected, "{release}");
        }
    }

    #[test]
    fn every_refusal_names_a_next_step() {
        for (errno, sysctl, expected) in [
            (libc::EPERM, Some(2), "sysctl -w kernel.io_uring_disabled=0"),
            (libc::EPERM, Some(1), "CAP_SYS_ADMIN"),
            (libc::EPERM, Some(0), "seccomp"),
            (libc::EPERM, None, "seccomp"),
            (libc::ENOSYS, None, "CONFIG_IO_URING"),
            (libc::ENOMEM, Some(0), "ulimit -l"),
        ] {
            let missing = explain(io::Error::from_raw_os_error(errno), sysctl).to_string();
            assert!(missing.contains(expected), "{missing}");
            assert!(missing.contains("next step"), "{missing}");
        }
    }

    #[test]
    fn this_host_can_run_a_shard() {
        let features = probe().expect("the tests need io_uring");
        assert!(features.descriptors_max >= DESCRIPTORS_MIN);
    }
}
