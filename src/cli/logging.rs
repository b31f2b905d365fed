//! Log lines to standard error, without making a shard wait for it.
//!
//! Standard error may be a pipe whose reader has stopped, and a shard that
//! writes to it would stop too. So a line goes into a bounded queue, and one
//! thread writes. When the queue is full a line is dropped and counted; the
//! number is reported in a line of its own as soon as writing goes on.
//!
//! `MIDSPAN_LOG` overrides the configured level with the directives of
//! `tracing_subscriber::EnvFilter`, such as `warn,access=info`.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::Advise;
use crate::config::settings::LogSettings;
use crate::config::{LogFormat, LogLevel};

/// The environment variable that overrides the level.
const FILTER_VARIABLE: &str = "MIDSPAN_LOG";

/// How many lines wait for the writer at most.
const QUEUE_LINES_MAX: usize = 8192;

/// How many bytes one write takes at most, but for a longer single line.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// How long the writer rests after a write. A writer that waits for lines must
/// be woken by the shard that logs one, which costs that shard more than the
/// line; one that rests finds many.
const REST: Duration = Duration::from_millis(10);

/// How long a process that ends waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends everything that is logged from now on to standard error.
///
/// Spawns a thread, which inherits the signal mask: block the signals that are
/// to be polled before calling this.
///
/// # Errors
///
/// `MIDSPAN_LOG` cannot be understood, or logging was set up before.
pub fn init(settings: LogSettings) -> anyhow::Result<LogQueue> {
    let filter = match env::var(FILTER_VARIABLE) {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(directives)
            // The text of this error tells its causes too.
            .map_err(|error| anyhow!("{FILTER_VARIABLE} cannot be understood: {error}"))
            .advise(
                "write a level, such as debug, or levels by target, such as warn,access=info",
            )?,
        _ => filter(settings.level),
    };
    let queue = start(io::stderr(), settings.format)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue.clone());
    match settings.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow!("cannot set up logging: {error}"))?;

    // A panic ends the process: what led to it must be out before.
    let default_hook = panic::take_hook();
    let at_panic = queue.clone();
    panic::set_hook(Box::new(move |info| {
        at_panic.flush();
        default_hook(info);
    }));
    Ok(queue)
}

/// What is logged where `MIDSPAN_LOG` says nothing. What QUIC's library warns of is what peers
/// did wrong, which is for `debug`.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => format!("{level},quinn_proto=error"),
        LogLevel::Debug => level.to_string(),
    })
}

/// The way to the thread that writes. Flush it before the process ends.
#[derive(Clone, Debug)]
pub struct LogQueue {
    entries: SyncSender<Entry>,
    lines_dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Everything before is to be written; then the sender is dropped.
    Flush(SyncSender<()>),
}

impl LogQueue {
    /// Waits until what was logged so far is written, or two seconds.
    pub fn flush(&self) {
        let (done, written) = sync_channel(0);
        let entries = self.entries.clone();
        // The queue may be full and standard error stuck: let somebody else
        // wait for room.
        let spawned = thread::Builder::new().spawn(move || {
            // The writer is gone only if nobody reads what it wrote.
            let _ = entries.send(Entry::Flush(done));
        });
        if spawned.is_ok() {
            // Either way there is no more to wait for.
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }

    /// How many lines were dropped so far.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Ordering::Relaxed)
    }
}

/// One line, as the subscriber writes it: whole, in one call.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.lines_dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a LogQueue;

    fn make_writer(&'a self) -> &'a LogQueue {
        self
    }
}

fn start(output: impl Write + Send + 'static, format: LogFormat) -> anyhow::Result<LogQueue> {
    let (entries, waiting) = sync_channel(QUEUE_LINES_MAX);
    let lines_dropped = Arc::new(AtomicU64::new(0));
    let writer = Writer {
        output,
        format,
        lines_dropped: Arc::clone(&lines_dropped),
        lines_reported: 0,
        batch: Vec::new(),
    };
    thread::Builder::new()
        .name("log".into())
        .spawn(move || writer.run(&waiting))
        .context("cannot start the thread that writes the log")?;
    Ok(LogQueue {
        entries,
        lines_dropped,
    })
}

/// The thread that writes: a batch of lines in one call, as many as wait.
struct Writer<W> {
    output: W,
    format: LogFormat,
    lines_dropped: Arc<AtomicU64>,
    lines_reported: u64,
    batch: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, waiting: &Receiver<Entry>) {
        while let Ok(entry) = waiting.recv() {
            let mut next = Some(entry);
            let mut flushed = None;
            while let Some(entry) = next {
                match entry {
                    Entry::Line(line) => self.batch.extend_from_slice(&line),
                    Entry::Flush(done) => flushed = Some(done),
                }
                let full = self.batch.len() >= BATCH_BYTES_MAX;
                next = if full || flushed.is_some() {
                    None
                } else {
                    waiting.try_recv().ok()
                };
            }
            self.report_dropped();
            // There is nobody to tell that standard error is gone.
            let _ = self.output.write_all(&self.batch);
            self.batch.clear();
            drop(flushed);
            rest();
        }
    }

    fn report_dropped(&mut self) {
        let total = self.lines_dropped.load(Ordering::Relaxed);
        let dropped = total - self.lines_reported;
        if dropped == 0 {
            return;
        }
        self.lines_reported = total;
        let mut time = String::new();
        // Writing to a string does not fail.
        let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
        let mut line = String::new();
        let _ = match self.format {
            LogFormat::Text => writeln!(line, "{time}  WARN log: lines dropped count={dropped}"),
            LogFormat::Json => writeln!(
                line,
                "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"lines dropped\",\
                 \"count\":{dropped},\"target\":\"log\"}}"
            ),
        };
        self.batch.extend_from_slice(line.as_bytes());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread is no shard, and hides no race"
)]
fn rest() {
    thread::sleep(REST);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Says when a write begins and lets it end when told to.
    struct Gate {
        began: Sender<Vec<u8>>,
        go: Receiver<()>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.began.send(bytes.to_vec()).expect("the test waits");
            // A test that ended opens the gate.
            let _ = self.go.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(queue: &LogQueue, line: &str) {
        let mut writer: &LogQueue = queue;
        writer.write_all(line.as_bytes()).expect("never fails");
    }

    fn check_overflow(format: LogFormat, report: impl Fn(&str) -> bool) {
        let (began, writes) = channel();
        let (open, go) = channel();
        let queue = start(Gate { began, go }, format).expect("a thread");
        log(&queue, "first\n");
        assert_eq!(writes.recv().expect("a write"), b"first\n");
        // The writer is stuck: the queue takes its fill and no more.
        for _ in 0..QUEUE_LINES_MAX + 5 {
            log(&queue, "x\n");
        }
        assert_eq!(queue.lines_dropped(), 5);
        drop(open);
        let mut written = String::new();
        while written.matches("x\n").count() < QUEUE_LINES_MAX {
            let bytes = writes.recv().expect("a write");
            written += std::str::from_utf8(&bytes).expect("text");
        }
        let others: Vec<&str> = written.lines().filter(|line| *line != "x").collect();
        assert!(matches!(others[..], [line] if report(line)), "{others:?}");
    }

    struct Keep(Sender<Vec<u8>>);

    impl Write for Keep {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_delays_nobody_and_drops_are_reported() {
        check_overflow(LogFormat::Text, |line| {
            line.ends_with("lines dropped count=5")
        });
        check_overflow(LogFormat::Json, |line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["count"] == 5 && line["level"] == "WARN" && line["timestamp"].is_string()
        });
    }

    #[test]
    fn a_flush_waits_for_what_was_logged() {
        let (sender, written) = channel();
        let queue = start(Keep(sender), LogFormat::Text).expect("a thread");
        for _ in 0..100 {
            log(&queue, "line\n");
        }
        queue.flush();
        let bytes: Vec<u8> = written.try_iter().flatten().collect();
        assert_eq!(bytes.len(), 500);
    }

    #[test]
    fn what_peers_do_wrong_by_quic_is_for_debug() {
        let check = |level, expected: &[&str]| {
            let (sender, written) = channel();
            let queue = start(Keep(sender), LogFormat::Text).expect("a thread");
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(filter(level))
                .with_writer(queue.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "quinn_proto::connection", "ours");
                tracing::warn!(target: "quinn_proto::connection", "theirs");
                tracing::info!(target: "midspan", "life");
            });
            queue.flush();
            let bytes: Vec<u8> = written.try_iter().flatten().collect();
            let text = String::from_utf8(bytes).expect("text");
            for word in ["ours", "theirs", "life"] {
                let is_there = text.contains(word);
                assert_eq!(is_there, expected.contains(&word), "{level} {word}: {text}");
            }
        };
        check(LogLevel::Error, &["ours"]);
        check(LogLevel::Warn, &["ours"]);
        check(LogLevel::Info, &["ours", "life"]);
        check(LogLevel::Debug, &["ours", "theirs", "life"]);
    }

    #[test]
    fn a_subscriber_writes_one_entry_a_line() {
        let (began, writes) = channel();
        let (open, go) = channel();
        drop(open);
        let queue = start(Gate { began, go }, LogFormat::Json).expect("a thread");
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(queue.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: crate::metrics::ACCESS_LOG, bytes = 7, "session");
        });
        let line = writes.recv().expect("a write");
        let line: serde_json::Value = serde_json::from_slice(&line).expect("one JSON object");
        assert_eq!(
            (&line["target"], &line["bytes"]),
            (&"access".into(), &7.into())
        );
        assert_eq!(line["message"], "session");
    }
}
