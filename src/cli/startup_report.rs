//! What a relay says that has started: what it does, and what to try next.

use std::fmt;
use std::net::SocketAddr;

use super::quoted;
use crate::config::ListenAddress;
use crate::config::settings::RelaySettings;
use crate::protocol::jet::Transport;

/// What only the running relay knows.
#[derive(Clone, Debug, Default)]
pub struct StartupFacts {
    /// The addresses as bound, with the ports that the kernel chose.
    pub listening: Vec<SocketAddr>,
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

impl StartupReport<'_> {
    /// The relay's URL as others on the same network would dial it: the first
    /// listener, or the host's name where that has every address.
    fn relay_url(&self) -> Option<String> {
        let address = self.facts.listening.first()?;
        let only = self.settings.listen.first()?.only;
        let transport = only.unwrap_or(Transport::Tcp);
        let scheme = transport.scheme();
        let pin = match &self.facts.fingerprint {
            Some(fingerprint) if transport.is_tls() => format!("?pin={fingerprint}"),
            _ => String::new(),
        };
        let port = address.port();
        Some(if address.ip().is_unspecified() {
            let host = self.settings.jet.instance.host();
            format!("{scheme}://{host}:{port}{pin}")
        } else {
            format!("{scheme}://{address}{pin}")
        })
    }
}

impl fmt::Display for StartupReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings;
        let limits = &settings.limits;
        writeln!(
            f,
            "midspan {} relays JET over TCP, TLS and WebSocket",
            env!("CARGO_PKG_VERSION")
        )?;
        for (address, listener) in self.facts.listening.iter().zip(&settings.listen) {
            let reach = match ListenAddress(*address).is_loopback() {
                true => "this host only",
                false => "open to anybody who can reach it",
            };
            match listener.only {
                Some(only) => {
                    let way = only.as_str();
                    writeln!(f, "  listening    {address} (jet+{way} alone; {reach})")?;
                }
                None => writeln!(f, "  listening    {address} ({reach})")?,
            }
        }
        let cores: Vec<String> = self.facts.cores.iter().map(usize::to_string).collect();
        if let Some(admin) = self.facts.admin {
            writeln!(
                f,
                "  operators    http://{admin}/ (midspan status --admin {admin})"
            )?;
        }
        match &self.facts.fingerprint {
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
        let created = match settings.create_on_accept {
            true => "created by whoever accepts",
            false => "created by the relay only (--create-on-accept lets acceptors create them)",
        };
        writeln!(
            f,
            "  associations {created}; up to {} for {} s",
            limits.associations_max, limits.association_ttl_s
        )?;
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
        let Some(relay) = self.relay_url().filter(|_| settings.create_on_accept) else {
            return Ok(());
        };
        write!(
            f,
            "
Try next, where the service is:
  midspan expose home --to 127.0.0.1:22 --relay {}
and where it is wanted, with the ticket that this prints:
  midspan forward 2222 --to TICKET
  ssh -p 2222 127.0.0.1
",
            quoted(&relay)
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;
    use crate::config::settings::HostFacts;

    fn report(args: &str, listening: &[&str]) -> String {
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
  listening    127.0.0.1:40001 (this host only)
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
    fn a_relay_for_others_names_itself_by_its_host() {
        let report = report(
            "--listen 0.0.0.0:80 --open --create-on-accept --jet-instance relay.example:99",
            &["0.0.0.0:80"],
        );
        assert!(
            report.contains("(open to anybody who can reach it)"),
            "{report}"
        );
        assert!(
            report.contains("--relay jet+tcp://relay.example:80\n"),
            "{report}"
        );
    }

    #[test]
    fn a_pinned_listener_is_advised_as_what_it_is_for() {
        let report = report("--listen jet+wss://127.0.0.1:0", &["127.0.0.1:40001"]);
        assert!(
            report.contains("127.0.0.1:40001 (jet+wss alone; this host only)"),
            "{report}"
        );
        assert!(
            report.contains("--relay 'jet+wss://127.0.0.1:40001?pin=00ff'\n"),
            "{report}"
        );
    }

    #[test]
    fn no_command_is_advised_that_would_be_refused() {
        let report = report("--create-on-accept=false", &["127.0.0.1:8080"]);
        assert!(!report.contains("midspan expose"), "{report}");
        assert!(
            report.contains("--create-on-accept lets acceptors"),
            "{report}"
        );
    }
}
