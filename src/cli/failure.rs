//! How a failed command ends: what went wrong, the next step, an exit code.
//!
//! ```text
//! midspan: error: cannot listen on 127.0.0.1:8080: address already in use
//!   next: stop the other program, or pass another --listen
//! ```

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use super::state_dir::StateDirError;
use crate::admin::AdminError;
use crate::agent::error::AgentError;
use crate::config::ConfigError;
use crate::shard::serve::ServeError;

/// The exit code of a command that failed.
const FAILED: u8 = 1;

/// The exit code of a command that was called wrongly.
pub(super) const USAGE: u8 = 2;

/// Gives an error what the operator can do about it.
pub trait Advise<T> {
    /// Adds `next_step`, an imperative without a full stop.
    ///
    /// # Errors
    ///
    /// The same error, if it was one.
    fn advise(self, next_step: impl Into<String>) -> anyhow::Result<T>;

    /// Adds `next_step` where a file or directory is not there.
    ///
    /// # Errors
    ///
    /// The same error, if it was one.
    fn advise_missing(self, next_step: impl Into<String>) -> anyhow::Result<T>;

    /// Makes the error one of usage, for exit code 2.
    ///
    /// # Errors
    ///
    /// The same error, if it was one.
    fn usage(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn advise(self, next_step: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let next_step = Some(next_step.into());
            Advised {
                error: error.into(),
                next_step,
                usage: false,
            }
            .into()
        })
    }

    fn advise_missing(self, next_step: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(Into::into)
            .or_else(|error: anyhow::Error| match is_missing(&error) {
                true => Err(error).advise(next_step),
                false => Err(error),
            })
    }

    fn usage(self) -> anyhow::Result<T> {
        self.map_err(|error| {
            Advised {
                error: error.into(),
                next_step: None,
                usage: true,
            }
            .into()
        })
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes.any(|cause: &io::Error| cause.kind() == ErrorKind::NotFound)
}

/// An error and what is known about it; reads as the error itself.
#[derive(Debug)]
struct Advised {
    error: anyhow::Error,
    next_step: Option<String>,
    usage: bool,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Tells `error` with its causes and the next step, and gives the exit code.
pub fn report(error: &anyhow::Error, output: &mut dyn Write) -> ExitCode {
    let mut story = Story::default();
    story.read(error);
    let mut text = format!("midspan: error: {error:#}\n");
    for step in story.next_steps {
        text += &format!("  next: {step}\n");
    }
    // Nobody is left to tell where printing fails.
    let _ = output.write_all(text.as_bytes());
    ExitCode::from(if story.usage { USAGE } else { FAILED })
}

/// What can be done about it, in one line; `None` where the error says it all.
pub(super) fn next_step(error: &anyhow::Error) -> Option<String> {
    let mut story = Story::default();
    story.read(error);
    (!story.next_steps.is_empty()).then(|| story.next_steps.join("; "))
}

#[derive(Default)]
struct Story {
    next_steps: Vec<String>,
    usage: bool,
}

impl Story {
    fn read(&mut self, error: &anyhow::Error) {
        for cause in error.chain() {
            if let Some(advised) = cause.downcast_ref::<Advised>() {
                self.next_steps.extend(advised.next_step.clone());
                self.usage |= advised.usage;
                // What it wraps is no part of the chain.
                return self.read(&advised.error);
            }
            if let Some(error) = cause.downcast_ref::<ConfigError>() {
                self.next_steps.extend(error.next_step());
                self.usage |= error.is_usage();
            }
            if let Some(error) = cause.downcast_ref::<AgentError>() {
                self.next_steps.extend(error.next_step());
            }
            if let Some(error) = cause.downcast_ref::<ServeError>() {
                self.next_steps.extend(error.next_step());
            }
            if let Some(error) = cause.downcast_ref::<AdminError>() {
                self.next_steps.extend(error.next_step().map(str::to_owned));
            }
            if let Some(error) = cause.downcast_ref::<StateDirError>() {
                self.next_steps.push(error.next_step());
            }
        }
    }
}

/// What is reported of an error.
#[cfg(test)]
pub(super) fn reported(error: &anyhow::Error) -> String {
    let mut output = Vec::new();
    report(error, &mut output);
    String::from_utf8(output).expect("text")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn check(error: &anyhow::Error, expected: &str, code: u8) {
        let mut output = Vec::new();
        let got = report(error, &mut output);
        assert_eq!(String::from_utf8(output).expect("text"), expected);
        assert_eq!(got, ExitCode::from(code));
    }

    fn not_found() -> io::Error {
        io::Error::new(ErrorKind::NotFound, "no such file")
    }

    #[test]
    fn tells_the_chain_once_and_every_next_step() {
        let plain = anyhow::Error::new(not_found()).context("cannot read the key");
        check(
            &plain,
            "midspan: error: cannot read the key: no such file\n",
            1,
        );

        let advised: anyhow::Result<()> = Err(not_found())
            .context("cannot read the key")
            .advise("make one")
            .context("cannot start")
            .advise("try again");
        check(
            &advised.expect_err("an error"),
            "midspan: error: cannot start: cannot read the key: no such file\n  next: try again\n  \
             next: make one\n",
            1,
        );
    }

    #[test]
    fn what_is_missing_has_a_next_step_and_what_is_not_has_none() {
        let missing: anyhow::Result<()> = Err(not_found()).context("a file");
        let missing = missing.advise_missing("make it").expect_err("an error");
        check(
            &missing,
            "midspan: error: a file: no such file\n  next: make it\n",
            1,
        );
        let other: anyhow::Result<()> = Err(io::Error::other("broken")).context("a file");
        let other = other.advise_missing("make it").expect_err("an error");
        check(&other, "midspan: error: a file: broken\n", 1);
    }

    #[test]
    fn a_proxy_names_a_cause_once() {
        let taken = AgentError::Listen {
            address: ([127, 0, 0, 1], 2222).into(),
            source: io::Error::new(ErrorKind::AddrInUse, "in use"),
        };
        check(
            &anyhow::Error::new(taken),
            "midspan: error: cannot listen on 127.0.0.1:2222: in use\n  next: stop what listens \
             there (ss -ltnp), or choose another address or port\n",
            1,
        );
    }

    #[test]
    fn wrong_usage_has_its_own_exit_code() {
        let usage: anyhow::Result<()> = Err(not_found()).usage().advise("read --help");
        check(
            &usage.expect_err("an error"),
            "midspan: error: no such file\n  next: read --help\n",
            2,
        );
    }
}
