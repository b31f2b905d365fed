//! What a relay says that has started: what it does, and what to try next.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use crate::access::Awaiting;
use crate::access::egress::Reach;
use crate::config::quic_settings::PathSettings;
use crate::config::settings::RelaySettings;
use crate::config::{ListenAddress, Pinned};
use crate::protocol::jet::Transport;

const JET: &str = "JET";
const PTTH: &str = "PTTH";

/// What only the running relay knows.
#[derive(Clone, Debug, Default)]
pub struct StartupFacts {
    /// The addresses as bound, with the ports that the kernel chose.
    pub listening: Vec<SocketAddr>,
    /// The addresses of UDP as bound.
    pub quic: Vec<SocketAddr>,
    /// Where operators look.
    pub admin: Option<SocketAddr>,
    /// The cores that shards run on.
    pub cores: Vec<usize>,
    /// The congestion control of accepted connections.
    pub congestion_control: String,
    /// The fingerprint of the certificate, if the relay made it.
    pub fingerprint: Option<String>,
    /// What the probe of the kernel found worth telling, a sentence each.
    pub notes: Vec<String>,
}

impl StartupFacts {
    /// In a line.
    pub(super) fn serving(&self) -> String {
        let addresses: Vec<_> = self.listening.iter().map(SocketAddr::to_string).collect();
        let shards = self.cores.len();
        format!("relays on {} with {shards} shards", addresses.join(", "))
    }
}

/// What a relay that has started says: what it does, and what to try next.
#[derive(Debug)]
pub struct StartupReport<'a> {
    /// What was asked for.
    pub settings: &'a RelaySettings,
    /// What came of it.
    pub facts: &'a StartupFacts,
}

/// What a relay serves, by all its listeners.
#[derive(Debug, Default)]
struct Served {
    /// Systems but for JET, in order.
    others: BTreeSet<&'static str>,
    /// JET's transports, in order.
    jet: BTreeSet<&'static str>,
}

impl Served {
    fn by(report: &StartupReport<'_>) -> Self {
        let settings = report.settings;
        let mut served = Self::default();
        for listener in &settings.listen {
            let systems = systems_at(listener.only, settings);
            let others = systems.iter().filter(|system| **system != JET);
            served.others.extend(others);
            served.jet.extend(match listener.only {
                None => &["TCP", "TLS", "WebSocket"][..],
                Some(Pinned::Jet(Transport::Tcp)) => &["TCP"],
                Some(Pinned::Jet(Transport::Tls)) => &["TLS"],
                Some(Pinned::Jet(Transport::Ws | Transport::Wss)) => &["WebSocket"],
                Some(Pinned::Jproxy { .. }) => &[],
            });
        }
        if !report.facts.quic.is_empty() {
            served.others.insert(PTTH);
        }
        served
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jet: Vec<_> = self.jet.iter().copied().collect();
        let jet = match &*jet {
            [] => None,
            [one] => Some(format!("{JET} over {one}")),
            [others @ .., last] => Some(format!("{JET} over {} and {last}", others.join(", "))),
        };
        let others = self.others.iter().map(|system| (*system).to_owned());
        f.write_str(&jet.into_iter().chain(others).collect::<Vec<_>>().join("; "))
    }
}

/// What is served at a listener that is for this alone, if for anything.
fn systems_at(only: Option<Pinned>, settings: &RelaySettings) -> Vec<&'static str> {
    let is_http = matches!(
        only,
        None | Some(Pinned::Jet(Transport::Ws | Transport::Wss))
    );
    let is_jproxy = matches!(only, None | Some(Pinned::Jproxy { .. }));
    let served = [
        (JET, only.is_none_or(|only| only.jet().is_some())),
        (PTTH, is_http && !settings.forwarding.is_empty()),
        ("WebSocks", is_http && settings.users.path.is_some()),
        ("jProxy", is_jproxy && settings.jproxy.path.is_some()),
    ];
    let served = served.into_iter().filter(|(_, is_served)| *is_served);
    served.map(|(system, _)| system).collect()
}

/// Where the relay dials for others.
fn reach(settings: &RelaySettings) -> String {
    let reach = match settings.egress.reach() {
        Reach::Public => "what is public",
        Reach::Everything => "everything",
    };
    match settings.egress.rules().len() {
        0 => reach.to_owned(),
        rules => format!("{reach}, after [egress] rules: {rules}"),
    }
}

impl StartupReport<'_> {
    /// Whether anybody comes over TLS.
    fn has_tls(&self) -> bool {
        let mut listeners = self.settings.listen.iter();
        !self.facts.quic.is_empty()
            || listeners.any(|listener| listener.only.is_none_or(Pinned::is_tls))
    }
}

impl fmt::Display for StartupReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings;
        let limits = &settings.limits;
        let (version, served) = (env!("CARGO_PKG_VERSION"), Served::by(self));
        writeln!(f, "midspan {version} relays {served}")?;
        for (address, listener) in self.facts.listening.iter().zip(&settings.listen) {
            let reach = match ListenAddress(*address).is_loopback() {
                true => "this host only",
                false if listener.is_for_anybody() => "open to anybody who can reach it",
                false => "who has a key",
            };
            let systems = systems_at(listener.only, settings);
            let all = systems.join(", ");
            let what = match listener.only {
                None => all,
                Some(only) => {
                    let way = only.scheme();
                    let dialect = match only.dialect() {
                        Some(dialect) => format!(", dialect {dialect}"),
                        None => String::new(),
                    };
                    match &*systems {
                        [_] => format!("{way} alone{dialect}"),
                        _ => format!("{way} alone: {all}"),
                    }
                }
            };
            writeln!(f, "  listening    {address} ({what}; {reach})")?;
        }
        for address in &self.facts.quic {
            let PathSettings {
                congestion,
                mtu_max,
            } = settings.quic.path;
            writeln!(
                f,
                "  quic         {address} over UDP (PTTH; who has a key; {congestion}, datagrams of \
                 up to {mtu_max} bytes)"
            )?;
        }
        let cores: Vec<String> = self.facts.cores.iter().map(usize::to_string).collect();
        if let Some(admin) = self.facts.admin {
            writeln!(
                f,
                "  operators    http://{admin}/ (midspan status --admin {admin})"
            )?;
        }
        match &self.facts.fingerprint {
            _ if !self.has_tls() => {}
            Some(fingerprint) => writeln!(f, "  certificate  made here, SHA-256 {fingerprint}")?,
            None => {
                for files in &settings.tls.certificates {
                    writeln!(f, "  certificate  {}", files.chain.display())?;
                }
            }
        }
        writeln!(f, "  cores        {}", cores.join(", "))?;
        writeln!(f, "  data plane   {}", settings.data_plane)?;
        let price = match self.facts.congestion_control.as_str() {
            "bbr" => " (costs more CPU per byte on near paths; see midspan doctor)",
            _ => "",
        };
        writeln!(f, "  congestion   {}{price}", self.facts.congestion_control)?;
        if !served.jet.is_empty() {
            let created = match settings.create_on_accept {
                true => "created by whoever accepts",
                false => {
                    "created by the relay only (--create-on-accept lets acceptors create them)"
                }
            };
            writeln!(
                f,
                "  associations {created}; up to {} for {} s",
                limits.associations_max, limits.association_ttl_s
            )?;
        }
        let forwarding = &settings.forwarding;
        if !forwarding.is_empty() {
            let (servers, clients) = (forwarding.servers().len(), forwarding.clients().len());
            let ways = match self.facts.quic.is_empty() {
                true => "HTTP",
                false => "HTTP and QUIC",
            };
            writeln!(
                f,
                "  forwarding   by PTTH over {ways}; servers: {servers}, clients: {clients}"
            )?;
        }
        if let Some(path) = &settings.users.path {
            let count = settings.users.users.all().len();
            let (path, reach) = (path.display(), reach(settings));
            write!(f, "  websocks     users of {path}: {count}; dials {reach}")?;
            let Awaiting { addresses, anybody } = &settings.awaiting;
            for (index, ip) in addresses.iter().enumerate() {
                let before = if index == 0 {
                    "; opens ports for users at"
                } else {
                    " and"
                };
                write!(f, "{before} {ip}")?;
            }
            if !addresses.is_empty() && *anybody {
                f.write_str(", to anybody if they like")?;
            }
            writeln!(f)?;
        }
        if let Some(path) = &settings.jproxy.path {
            let (path, count) = (path.display(), settings.jproxy.users.all().len());
            let dialect = settings.jproxy.dialect;
            let icmp = if settings.jproxy.icmp {
                ", and echoes"
            } else {
                ""
            };
            let reach = reach(settings);
            writeln!(
                f,
                "  jproxy       users of {path}: {count}; dialect {dialect}; dials {reach}{icmp}"
            )?;
        }
        writeln!(
            f,
            "  limits       {} connections, {} handshakes of {} s, {} pipes, {} MiB of memory",
            limits.connections_max,
            limits.handshakes_max,
            limits.handshake_timeout_s,
            limits.pipes_max,
            limits.memory_bytes_max >> 20,
        )?;
        writeln!(f, "  state        {}", settings.state_dir.display())?;
        for note in &self.facts.notes {
            writeln!(f, "  note         {note}")?;
        }
        self.try_next(f)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;
    use crate::config::settings::HostFacts;

    /// What a relay says with these arguments, and these addresses as bound.
    pub(in crate::cli) fn report(args: &str, listening: &[&str]) -> String {
        let words = ["midspan", "relay"].into_iter();
        let args = match Cli::try_parse_from(words.chain(args.split_whitespace())) {
            Ok(Cli {
                command: Command::Relay(args),
            }) => args,
            other => panic!("{other:?}"),
        };
        let settings = args.settings(&HostFacts::example()).expect("valid");
        let facts = StartupFacts {
            listening: listening
                .iter()
                .map(|a| a.parse().expect("an address"))
                .collect(),
            quic: settings.quic.listen.iter().map(|one| one.0).collect(),
            cores: vec![0, 1],
            congestion_control: "cubic".into(),
            admin: Some("127.0.0.1:9".parse().expect("an address")),
            fingerprint: Some("00ff".into()),
            notes: vec!["this kernel has no kTLS".into()],
        };
        StartupReport {
            settings: &settings,
            facts: &facts,
        }
        .to_string()
    }

    #[test]
    fn a_relay_on_loopback_tells_what_to_try() {
        let expected = format!(
            "midspan {} relays JET over TCP, TLS and WebSocket
  listening    127.0.0.1:40001 (JET; this host only)
  operators    http://127.0.0.1:9/ (midspan status --admin 127.0.0.1:9)
  certificate  made here, SHA-256 00ff
  cores        0, 1
  data plane   auto
  congestion   cubic
  associations created by whoever accepts; up to 262144 for 300 s
  limits       704 connections, 704 handshakes of 10 s, 128 pipes, 2048 MiB of memory
  state        /var/lib/midspan
  note         this kernel has no kTLS

Try next, where the service is:
  midspan expose home --to 127.0.0.1:22 --relay jet+tcp://127.0.0.1:40001
and where it is wanted, with the ticket that this prints:
  midspan forward 2222 --to TICKET
  ssh -p 2222 127.0.0.1
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(
            report("--listen 127.0.0.1:0", &["127.0.0.1:40001"]),
            expected
        );
    }

    #[test]
    fn a_relay_that_speaks_quic_tells_how() {
        let quic = report(
            "--listen 127.0.0.1:0 --quic-listen 127.0.0.1:443",
            &["127.0.0.1:4"],
        );
        let line = "  quic         127.0.0.1:443 over UDP (PTTH; who has a key; cubic, datagrams of \
                    up to 1452 bytes)\n";
        assert!(quic.contains(line), "{quic}");
    }
}
