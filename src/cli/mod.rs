//! The commands: arguments and files into settings, errors into exit codes.
//!
//! Each command's module parses into the settings of the room below it
//! (`config` for the relay, `agent` for the proxies), says on standard output
//! what was started and what to try next, and hands over. Results go to
//! standard output, logs and errors to standard error.

mod activation;
mod agent;
mod any_relay;
mod check;
mod doctor;
mod expose;
mod failure;
mod forward;
mod host;
mod jproxy;
mod key;
mod local_listener;
pub mod logging;
mod notify;
mod ptth;
mod relay;
mod reload;
mod secret_file;
mod socks;
mod startup_report;
mod state_dir;
mod status;
mod tls;
mod try_next;
mod tunnel_key;
mod user_changes;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use agent::AgentArgs;
pub use check::CheckArgs;
pub use doctor::DoctorArgs;
pub use expose::{ExposeArgs, ExposeReport};
pub use failure::{Advise, report};
pub use forward::{ForwardArgs, ForwardReport};
pub use key::KeyArgs;
pub use relay::RelayArgs;
pub use socks::{SocksArgs, SocksReport};
pub use startup_report::{StartupFacts, StartupReport};
pub use state_dir::{StateDir, StateDirError};
pub use status::StatusArgs;
pub use tunnel_key::TunnelKeyArgs;

/// A relay for Linux: two programs that can only dial out meet at it, and it
/// moves the bytes between them at the speed of the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "midspan",
    bin_name = "midspan",
    version,
    after_help = "\
Example, on one machine:
  midspan relay
  midspan expose home --to 127.0.0.1:22 --relay jet+tcp://127.0.0.1:8080
  midspan forward 2222 --to TICKET
  ssh -p 2222 127.0.0.1

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; each is described where its arguments are.
#[derive(Debug, Subcommand)]
pub enum Command {
    Relay(Box<RelayArgs>),
    Expose(ExposeArgs),
    Forward(ForwardArgs),
    Socks(SocksArgs),
    Status(StatusArgs),
    Check(CheckArgs),
    Doctor(DoctorArgs),
    Key(KeyArgs),
}

/// Runs the command that `args` ask for; the first of them is the program's
/// own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(args) {
        Ok(cli) => cli.command,
        Err(error) => {
            // Nobody is left to tell where printing fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    let result = match command {
        Command::Relay(args) => relay::run(&args),
        Command::Expose(args) => expose::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Socks(args) => socks::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Key(args) => key::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, &mut io::stderr().lock()),
    }
}

/// Prints a start-up report. A closed standard output ends nothing.
fn print(text: &dyn std::fmt::Display) {
    let mut stdout = io::stdout().lock();
    let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
}
