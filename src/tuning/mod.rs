//! What `tuning/` advises for a relay's host: read, compared with what a host has, and
//! kept for its next boot.
//!
//! The files there are the one source. The program carries them, and a setting without
//! its reasons does not parse. A [`Setting`] decides from a [`Current`] value how it
//! stands and what to set; a [`DropIn`] is the file that makes it last, and that
//! remembers what was there before.
//!
//! Left out: the host. Values and texts come in, decisions and texts go out; who reads
//! `/proc` and writes to `/etc` is `cli`. Interrupts are left to `irq_affinity.sh`, which
//! needs to be told a network card.

mod block;
mod drop_in;
mod enough;
mod line;
mod setting;
mod wrap;

pub use block::{FileError, Label, Problem};
pub use drop_in::{DropIn, Entry};
pub use enough::{Enough, NotUnderstood};
pub use line::{Conf, Line};
pub use setting::{Current, Setting, Standing, settings};
pub use wrap::Wrapped;
