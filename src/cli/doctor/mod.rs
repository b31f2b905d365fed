//! `midspan doctor`: how this host suits a relay, and what could be better.
//!
//! What is advised, and why, is `tuning`'s; here it meets a host: [`tree`] has the host's
//! files, [`report`] tells, [`change`] sets and takes back.

mod change;
mod report;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use self::report::Report;
use self::tree::Tree;
use super::{Advise, print};
use crate::runtime::kernel;
use crate::tuning::{self, Setting};

/// Tell how this host suits a relay, and what could be better
///
/// Says first whether a relay can run here at all, then of each setting that is advised
/// what the host has, what is wanted, why, and what that gained. Changes nothing by itself.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  midspan doctor
  midspan doctor --apply
  midspan doctor --apply net.ipv4.ip_local_reserved_ports=443,8080 net.ipv4.ip_local_port_range
  midspan doctor --undo

Exit status: 0 a relay can run here, or all was done; 1 not so; 2 wrong usage.")]
pub struct DoctorArgs {
    /// Set what could be better, now and for the next boot; or what is named,
    /// to VALUE where one is given
    ///
    /// What was there before is remembered in the files that make it last,
    /// /etc/sysctl.d/60-midspan.conf and /etc/security/limits.d/60-midspan.conf. A host that
    /// has more than is wanted keeps it.
    #[arg(long, value_name = "NAME[=VALUE]", num_args = 0.., conflicts_with = "undo")]
    apply: Option<Vec<String>>,

    /// Take back what --apply has set, or of it what is named
    ///
    /// What somebody else has set since stays as it is.
    #[arg(long, value_name = "NAME", num_args = 0..)]
    undo: Option<Vec<String>>,

    /// Take DIR for `/`: an image, or with its own /proc a container's filesystem. Whether a
    /// relay can run there is then not looked at
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Tells, sets, or takes back.
///
/// # Errors
///
/// No relay can run here; or something cannot be set.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let tree = Tree::open(args.root.as_deref().unwrap_or(Path::new("/")))?;
    let settings = tuning::settings()?;
    if let Some(wishes) = &args.apply {
        return change::apply(&tree, &settings, wishes);
    }
    if let Some(names) = &args.undo {
        return change::undo(&tree, &settings, names);
    }
    // Elsewhere other limits and another kernel may hold.
    let verdict = args.root.is_none().then(kernel::probe);
    print(&Report::new(&tree, &settings, verdict.as_ref()));
    verdict.transpose()?;
    Ok(())
}

/// The setting called `name`.
///
/// # Errors
///
/// There is none.
fn find<'a>(settings: &'a [Setting], name: &str) -> anyhow::Result<&'a Setting> {
    let setting = settings.iter().find(|one| one.line.name() == name);
    setting
        .with_context(|| format!("unknown setting \"{}\"", name.escape_debug()))
        .usage()
        .advise("see their names with `midspan doctor`")
}
