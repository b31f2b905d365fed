//! `midspan check`: what the relay would make of a file.

use std::path::PathBuf;

use clap::Args;

use super::{host, print};
use crate::config::file::ConfigFile;
use crate::config::settings::{Flags, RelaySettings};
use crate::runtime::kernel;

/// Check a relay's configuration file
///
/// Prints the settings that the relay would run with on this host, every default
/// filled in, as a file that says the same. Nothing is started, opened or made.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  midspan check /etc/midspan.toml && systemctl restart midspan")]
pub struct CheckArgs {
    /// The file that is to be passed to `midspan relay --config`
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Checks the file.
///
/// # Errors
///
/// What is wrong with it, and where.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    // For the descriptor limit that it raises. Whether a relay can run here is
    // another question.
    let _ = kernel::probe();
    let file = ConfigFile::read(&args.file)?;
    let settings = RelaySettings::resolve(&Flags::default(), Some(&file), &host::facts()?)?;
    print(&format_args!(
        "# {} is valid. On this host the relay would run with:\n{settings}",
        args.file.display()
    ));
    for note in settings.notes() {
        print(&format_args!("# note: {note}"));
    }
    Ok(())
}
