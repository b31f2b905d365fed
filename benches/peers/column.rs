//! The columns: one load each, and the figures that it gives.

use anyhow::{bail, ensure};
use serde_json::Value;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Bytes in one direction, by the number of pairs and what the receiver
    /// does with them.
    Bulk { pairs: u32, sink: &'static str },
    /// Bytes in one direction on one pair, and which process they cost what: of three, the
    /// relay, the proxy behind it and the one before it.
    BulkByProcess,
    /// Messages of 16 KiB in one direction on one pair, copied from a buffer.
    Messages,
    /// The same in chunks of so many KiB, read into a buffer.
    Chunks { kib: u32 },
    /// 64 bytes to and fro on 64 pairs.
    Echo,
    /// 64 bytes to and fro on one pair.
    EchoAlone,
    /// One byte to and fro on one pair.
    EchoByte,
    /// 64 bytes to and fro on one pair, while 16 others move bulk.
    Beside,
    /// Pairs that come, carry a byte, and go.
    Join(Pace),
    /// The same 4 at a time, and how many that comes to.
    Connects,
    /// 9,000 pairs that carry nothing.
    Idle,
}

/// When the next pair comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// So many a second, whoever is measured.
    PerSecond(u32),
    /// When another one is done: so many at a time.
    AtATime(u32),
}

/// One figure of a load, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Digits behind the point.
    pub(crate) digits: usize,
    /// Where it stands in the generator's report.
    pointer: &'static str,
}

/// How long one measurement is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    seconds: f64,
    warmup_seconds: f64,
    joins: u32,
    idle_pairs: u32,
}

impl Length {
    /// Long enough to see that it works.
    pub(crate) const SHORTEST: Self = Self {
        seconds: 0.2,
        warmup_seconds: 0.1,
        joins: 100,
        idle_pairs: 200,
    };

    pub(crate) const fn of(seconds: f64) -> Self {
        Self {
            seconds,
            warmup_seconds: 0.5,
            joins: 5000,
            idle_pairs: 9000,
        }
    }
}

impl Figure {
    /// Of a rate more is better, of everything else less.
    pub(crate) fn is_rate(&self) -> bool {
        self.unit == "1/s"
    }
}

const CPU_PER_GIB: &str = "/relay_cpu_s_per_gib";
/// Followed by which of its processes, in the order of their start.
const CPU_PER_GIB_EACH: &str = "/relay_cpu_s_per_gib_each";
const CPU_PER_ROUND_TRIP: &str = "/relay_cpu_us_per_round_trip";
const CPU_PER_JOIN: &str = "/relay_cpu_us_per_join";

impl Column {
    pub(crate) const ALL: [Self; 10] = [
        Self::Bulk {
            pairs: 1,
            sink: "discard",
        },
        Self::Bulk {
            pairs: 1,
            sink: "copy",
        },
        Self::Bulk {
            pairs: 64,
            sink: "discard",
        },
        Self::Bulk {
            pairs: 64,
            sink: "copy",
        },
        Self::Echo,
        Self::Beside,
        Self::Join(Pace::PerSecond(8000)),
        Self::Join(Pace::AtATime(4)),
        Self::Join(Pace::AtATime(16)),
        Self::Idle,
    ];

    /// For legs with TLS or WebSocket around their bytes.
    pub(crate) const WRAPPED: [Self; 4] = [
        Self::Messages,
        Self::Echo,
        Self::Join(Pace::AtATime(4)),
        Self::Idle,
    ];

    /// For proxies that are asked where to dial.
    pub(crate) const SOCKS: [Self; 4] = [
        Self::Bulk {
            pairs: 1,
            sink: "discard",
        },
        Self::Messages,
        Self::EchoAlone,
        Self::Connects,
    ];

    /// For channels of a tunnel.
    pub(crate) const JPROXY: [Self; 4] = [
        Self::Bulk {
            pairs: 1,
            sink: "copy",
        },
        Self::Bulk {
            pairs: 64,
            sink: "copy",
        },
        Self::EchoAlone,
        Self::Echo,
    ];

    /// For legs whose bytes are bodies of HTTP.
    pub(crate) const HTTP: [Self; 4] = [
        Self::Chunks { kib: 16 },
        Self::Chunks { kib: 64 },
        Self::Echo,
        Self::Join(Pace::AtATime(4)),
    ];

    /// For ports that are forwarded by three processes.
    pub(crate) const QUIC: [Self; 3] = [Self::BulkByProcess, Self::EchoByte, Self::Connects];

    /// For what it costs to cross over.
    pub(crate) const ACROSS: [Self; 1] = [Self::BulkByProcess];

    /// For what a long way costs.
    pub(crate) const FAR_AWAY: [Self; 1] = [Self::Connects];

    pub(crate) fn name(&self) -> &'static str {
        self.layout()[0].name
    }

    /// The figures of this load.
    pub(crate) const fn layout(self) -> &'static [Figure] {
        const fn figure(
            name: &'static str,
            unit: &'static str,
            digits: usize,
            pointer: &'static str,
        ) -> Figure {
            Figure {
                name,
                unit,
                digits,
                pointer,
            }
        }
        match self {
            Self::Bulk { pairs: 1, sink } => match sink.as_bytes() {
                b"copy" => const { &[figure("bulk 1 copy", "CPU-s/GiB", 4, CPU_PER_GIB)] },
                _ => const { &[figure("bulk 1 discard", "CPU-s/GiB", 4, CPU_PER_GIB)] },
            },
            Self::Bulk { sink, .. } => match sink.as_bytes() {
                b"copy" => const { &[figure("bulk 64 copy", "CPU-s/GiB", 4, CPU_PER_GIB)] },
                _ => const { &[figure("bulk 64 discard", "CPU-s/GiB", 4, CPU_PER_GIB)] },
            },
            Self::BulkByProcess => {
                const {
                    &[
                        figure("bulk 1", "CPU-s/GiB", 3, CPU_PER_GIB),
                        figure("client side", "CPU-s/GiB", 3, "/relay_cpu_s_per_gib_each/2"),
                        figure("relay", "CPU-s/GiB", 3, "/relay_cpu_s_per_gib_each/0"),
                        figure("server side", "CPU-s/GiB", 3, "/relay_cpu_s_per_gib_each/1"),
                    ]
                }
            }
            Self::Messages => const { &[figure("messages 1", "CPU-s/GiB", 4, CPU_PER_GIB)] },
            Self::Chunks { kib: 16 } => {
                const { &[figure("chunks 16k", "CPU-s/GiB", 4, CPU_PER_GIB)] }
            }
            Self::Chunks { .. } => const { &[figure("chunks 64k", "CPU-s/GiB", 4, CPU_PER_GIB)] },
            Self::Echo => {
                const {
                    &[
                        figure("echo 64 CPU", "µs/RT", 2, CPU_PER_ROUND_TRIP),
                        figure("echo 64 p99", "µs", 0, "/latency/p99_us"),
                    ]
                }
            }
            Self::EchoAlone => {
                const {
                    &[
                        figure("echo 1 p50", "µs", 0, "/latency/p50_us"),
                        figure("echo 1 CPU", "µs/RT", 2, CPU_PER_ROUND_TRIP),
                    ]
                }
            }
            Self::EchoByte => {
                const {
                    &[
                        figure("echo byte p50", "µs", 0, "/latency/p50_us"),
                        figure("echo byte p99", "µs", 0, "/latency/p99_us"),
                    ]
                }
            }
            Self::Beside => {
                const {
                    &[
                        figure("beside bulk p50", "µs", 0, "/latency/p50_us"),
                        figure("beside bulk p99", "µs", 0, "/latency/p99_us"),
                    ]
                }
            }
            Self::Join(Pace::PerSecond(8000)) => {
                const { &[figure("join 8000/s CPU", "µs", 1, CPU_PER_JOIN)] }
            }
            Self::Join(Pace::AtATime(4)) => {
                const { &[figure("join 4 CPU", "µs", 1, CPU_PER_JOIN)] }
            }
            Self::Join(Pace::AtATime(16)) => {
                const { &[figure("join 16 CPU", "µs", 1, CPU_PER_JOIN)] }
            }
            Self::Join(_) => panic!("a column of joins has a title of its own"),
            Self::Connects => {
                const {
                    &[
                        figure("connects 4", "1/s", 0, "/joins_per_s"),
                        figure("connects 4 CPU", "µs", 1, CPU_PER_JOIN),
                    ]
                }
            }
            Self::Idle => const { &[figure("idle pair", "bytes", 0, "/rss_bytes_per_pair")] },
        }
    }

    /// The load generator's arguments.
    pub(crate) fn load(self, length: Length) -> Vec<String> {
        let Length {
            seconds,
            warmup_seconds,
            joins,
            idle_pairs,
        } = length;
        let window = format!("--seconds {seconds} --warmup {warmup_seconds}");
        let line = match self {
            Self::Bulk { pairs, sink } => format!("bulk --pairs {pairs} --sink {sink} {window}"),
            Self::BulkByProcess => {
                format!("bulk --pairs 1 --source copy --sink copy {window}")
            }
            Self::Messages => format!("bulk --source copy --message 16384 {window}"),
            Self::Chunks { kib } => {
                let bytes = kib << 10;
                format!("bulk --source copy --sink copy --message {bytes} {window}")
            }
            Self::Echo => format!("echo --pairs 64 --size 64 {window}"),
            Self::EchoAlone => format!("echo --pairs 1 --size 64 {window}"),
            Self::EchoByte => format!("echo --pairs 1 --size 1 {window}"),
            Self::Beside => format!("echo --pairs 1 --size 64 --beside-bulk 16 {window}"),
            // Enough at a time that a late one holds up no other.
            Self::Join(Pace::PerSecond(rate)) => {
                format!("join --rate {rate} --concurrency 64 --count {joins}")
            }
            Self::Join(Pace::AtATime(concurrency)) => {
                format!("join --concurrency {concurrency} --count {joins}")
            }
            Self::Connects => format!("join --concurrency 4 --count {joins}"),
            Self::Idle => format!("idle --pairs {idle_pairs}"),
        };
        line.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// Reads the figures from the generator's report. Those about a relay are
    /// absent without one.
    pub(crate) fn figures(self, report: &Value) -> anyhow::Result<Vec<(Figure, f64)>> {
        let errors = report.pointer("/errors").and_then(Value::as_u64);
        if errors != Some(0) {
            let first = report.pointer("/errors_first").unwrap_or(&Value::Null);
            bail!("{errors:?} errors: {first}");
        }
        let mut figures = Vec::new();
        for figure in self.layout() {
            let Some(value) = report.pointer(figure.pointer) else {
                // Not every row has as many processes.
                let is_of_one = figure.pointer.starts_with(CPU_PER_GIB_EACH);
                ensure!(is_of_one, "no {} in the report", figure.pointer);
                continue;
            };
            figures.extend(value.as_f64().map(|value| (*figure, value)));
        }
        Ok(figures)
    }
}
