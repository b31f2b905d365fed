//! `midspan relay`: its arguments, and how it starts.

use std::cell::RefCell;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use aws_lc_rs::rand;
use clap::{Args, value_parser};
use tracing::{info, warn};

use super::activation::Activation;
use super::notify::Notifier;
use super::reload::{Pages, Running};
use super::startup_report::{StartupFacts, StartupReport};
use super::state_dir::StateDir;
use super::tls::Certificates;
use super::{host, logging, print, tls};
use crate::admin::Admin;
use crate::config::certificates::CertificateFiles;
use crate::config::file::ConfigFile;
use crate::config::limits::{LIMITS, LimitFlag, LimitSpec};
use crate::config::settings::{Flags, HostFacts, RelaySettings, SPIN_US_MAX};
use crate::config::{
    ConfigError, CoreChoice, DataPlane, Instance, JetV1, ListenAddress, Listener, LogFormat,
    LogLevel, Period,
};
use crate::runtime::connected_datagram::{ECHOES_NEED, echoes};
use crate::runtime::kernel::{self, Features};
use crate::runtime::signal::Signals;
use crate::shard::serve::BoundRelay;
use crate::shard::udp_listeners::QuicIdentity;
use crate::tls::server::Tickets;

/// Run the relay at which others meet
///
/// Without arguments it listens on loopback only, for trying out. Arguments
/// override the configuration file, whose keys have the same names.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  midspan relay
  midspan relay --listen 0.0.0.0:8080 --listen '[::]:8080' --open --create-on-accept
  midspan relay --config /etc/midspan/midspan.toml")]
pub struct RelayArgs {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Listen on this address, as 0.0.0.0:8080, for everything, or as
    /// jet+tls://0.0.0.0:443 for that alone; repeat for several [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "[SCHEME://]ADDR:PORT")]
    listen: Vec<Listener>,

    /// Forward ports by PTTH over QUIC on this address of UDP, as 0.0.0.0:443; repeat for
    /// several
    #[arg(long, value_name = "ADDR:PORT")]
    quic_listen: Vec<ListenAddress>,

    /// Show metrics, status and histograms to operators here, on loopback
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<ListenAddress>,

    /// Serve anybody, without credentials; needed for addresses that other
    /// hosts can reach
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    open: Option<bool>,

    /// Let an acceptor create the association that it names [default: only on
    /// loopback without a configuration file]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    create_on_accept: Option<bool>,

    /// Run on so many cores, as 2, or on these, as 0,2-3 [default: all that
    /// this process may use]
    #[arg(long, value_name = "N|LIST")]
    cores: Option<CoreChoice>,

    /// Move bytes in this way [default: auto]
    #[arg(long, value_enum, value_name = "WAY")]
    data_plane: Option<DataPlane>,

    /// When told to stop, wait so long for pairs to end [default: 30s]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<Period>,

    /// Spin so many microseconds before sleeping: lower latency for more CPU
    /// [default: 0]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(0..=i64::from(SPIN_US_MAX)))]
    spin_us: Option<u32>,

    /// Lay out log lines in this way [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// Log this and what is more important; MIDSPAN_LOG overrides it
    /// [default: info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,

    /// Keep keys in this directory [default: $STATE_DIRECTORY, /var/lib/midspan
    /// for root, else $XDG_STATE_HOME/midspan or ~/.local/state/midspan]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Be this to those who come over TLS: a chain in PEM [default: a certificate
    /// made here, whose fingerprint is told at start]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// Invent the association of an acceptor that names none, as version 1 of
    /// JET has it [default: allow]
    #[arg(long, value_enum, value_name = "WORD")]
    jet_v1: Option<JetV1>,

    /// Tell peers that they reach this relay by this name [default: this
    /// host's name]
    #[arg(long, value_name = "HOST[:PORT]")]
    jet_instance: Option<Instance>,

    /// Set a limit; repeat for several
    #[arg(long, value_name = "NAME=VALUE", long_help = limits_help())]
    limit: Vec<LimitFlag>,
}

fn limits_help() -> String {
    let mut help =
        "Set a limit; repeat for several. Limits hold for the whole process:\n".to_owned();
    for limit in LIMITS {
        let LimitSpec {
            name,
            default,
            min,
            max,
            doc,
        } = limit;
        let doc = doc.trim();
        help += &format!("\n{name}: {doc} [{min} to {max}, default: {default}]");
    }
    help
}

impl RelayArgs {
    /// The settings that these arguments, over the file they name, come to.
    ///
    /// # Errors
    ///
    /// A file or value that is wrong, or does not suit `host`.
    pub fn settings(&self, host: &HostFacts) -> Result<RelaySettings, ConfigError> {
        let file = self.config.as_deref().map(ConfigFile::read).transpose()?;
        RelaySettings::resolve(&self.flags(), file.as_ref(), host)
    }

    fn flags(&self) -> Flags {
        let args = self.clone();
        Flags {
            listen: args.listen,
            quic_listen: args.quic_listen,
            admin: args.admin,
            open: args.open,
            create_on_accept: args.create_on_accept,
            cores: args.cores,
            data_plane: args.data_plane,
            drain_timeout: args.drain_timeout,
            spin_us: args.spin_us,
            log_format: args.log_format,
            log_level: args.log_level,
            state_dir: args.state_dir,
            jet_v1: args.jet_v1,
            jet_instance: args.jet_instance,
            tls: args
                .tls_certificate
                .zip(args.tls_key)
                .map(|(chain, key)| CertificateFiles { chain, key }),
            limits: args.limit,
        }
    }
}

/// Runs the relay until it is told to stop.
///
/// # Errors
///
/// Settings that are wrong, or a relay that cannot start.
pub(super) fn run(args: &RelayArgs) -> anyhow::Result<()> {
    let Activation {
        peers,
        admin,
        given,
    } = Activation::take()?;
    // Before the first thread, so that every thread leaves signals to a shard.
    let signals = Signals::block().context("cannot block signals")?;
    // Raises the descriptor limit, from which limits are derived.
    let features = kernel::probe()?;
    let facts = host::facts()?;
    let facts = HostFacts {
        given: given.clone(),
        ..facts
    };
    let (settings, stamps) = tls::stamped(None, || args.settings(&facts))?;
    let state = StateDir::open(&settings.state_dir)?;
    let tickets = Tickets::new()?;
    let loaded = Certificates::read(&settings, &state)?.load(tickets.clone())?;
    let owner_secret = state.owner_key()?;
    let quic = QuicIdentity {
        tls: Arc::clone(&loaded.quic),
        keys: state.quic_keys()?,
    };
    let mut relay = BoundRelay::bind(
        &settings,
        Arc::clone(&loaded.config),
        &quic,
        owner_secret,
        random_id,
        signals,
        peers,
    )?;
    let admin = match (admin, settings.admin) {
        (Some(socket), _) => Some(Admin::adopt(socket)?),
        (None, Some(address)) => Some(Admin::bind(address.0)?),
        (None, None) => None,
    };
    let log = logging::init(settings.log)?;
    if let Some(note) = settings.jproxy.rules_for_nobody() {
        warn!("{note}");
    }
    let facts = StartupFacts {
        listening: relay.addresses().to_vec(),
        quic: relay.quic_addresses().to_vec(),
        cores: relay.cores().as_slice().to_vec(),
        congestion_control: relay.congestion_control().to_owned(),
        admin: admin.as_ref().map(Admin::address),
        fingerprint: loaded
            .certificates
            .fingerprint
            .map(|print| print.to_string()),
        notes: [notes(&features, &settings), relay.quic_notes().to_vec()].concat(),
    };
    print(&StartupReport {
        settings: &settings,
        facts: &facts,
    });
    if let (Some(admin), Some(inquirer)) = (admin, relay.take_inquirer()) {
        admin.serve(inquirer)?;
    }
    let notifier = Notifier::from_env(facts.serving());
    if let Some(reloader) = relay.take_reloader() {
        let running = Running {
            args: args.clone(),
            given,
            notifier: notifier.clone(),
            settings,
            state,
            tickets,
            stamps,
            complaints: Vec::new(),
            loaded,
            pages: Pages::default(),
        };
        running.watch(reloader);
    }
    let watching = relay.take_pulse().map(|pulse| notifier.watch(pulse));
    let counted = relay.serve()?;
    // The queue is the process's own and no shard's, so it has no counter there.
    let log_lines_dropped = log.lines_dropped();
    info!(counters = %counted, log_lines_dropped, "stopped");
    watching.unwrap_or_default().finish();
    log.flush();
    Ok(())
}

/// Ids drawn from the generator at once: one draw costs as much as many.
const IDS_PER_DRAW: usize = 32;

/// Randomness for an id that is a credential.
fn random_id() -> [u8; 16] {
    thread_local! {
        static DRAWN: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.is_empty() {
            drawn.resize(IDS_PER_DRAW, [0; 16]);
            // Without randomness every id could be guessed: better no relay.
            let filled = rand::fill(drawn.as_flattened_mut());
            assert!(filled.is_ok(), "the system gives no random bytes");
        }
        drawn.pop().unwrap_or_default()
    })
}

/// What the probe found that an operator may want to change.
fn notes(features: &Features, settings: &RelaySettings) -> Vec<String> {
    let mut notes = settings.notes();
    if !features.min_wait {
        notes.push(format!(
            "kernel {} cannot gather completions: bulk transfers cost more CPU than from Linux \
             6.12 on",
            features.kernel_release
        ));
    }
    if settings.data_plane == DataPlane::Ring && !features.bundles {
        notes.push(format!(
            "kernel {} does not bundle buffers: the ring plane costs more CPU than from Linux \
             6.10 on",
            features.kernel_release
        ));
    }
    let wants_echoes = settings.jproxy.path.is_some() && settings.jproxy.icmp;
    let is_denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if wants_echoes && echoes(Ipv4Addr::LOCALHOST.into()).is_err_and(is_denied) {
        notes.push(format!("no echo requests can be sent: {ECHOES_NEED}"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(args: &str) -> Result<RelayArgs, clap::Error> {
        let words = ["midspan", "relay"]
            .into_iter()
            .chain(args.split_whitespace());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Relay(args) => *args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn arguments_become_settings() {
        let args = parse(
            "--listen [::]:1 --listen 127.0.0.1:2 --open --create-on-accept=false --cores 1 \
             --data-plane ring --drain-timeout 5m --spin-us 20 --log-format json --log-level warn \
             --state-dir /s --jet-v1 deny --jet-instance r:9 --limit pipes_max=3 \
             --limit association_ttl_s=60",
        )
        .expect("valid");
        let settings = args.settings(&HostFacts::example()).expect("valid");
        assert_eq!(
            settings.to_string(),
            "listen = [\"[::]:1\", \"127.0.0.1:2\"]\nopen = true\ncreate_on_accept = false\n\
             cores = \"0-0\"\ndata_plane = \"ring\"\ndrain_timeout = \"5m\"\nspin_us = 20\n\
             state_dir = \"/s\"\n\n[log]\nformat = \"json\"\nlevel = \"warn\"\n\n[jet]\nv1 = \"deny\"\n\
             instance = \"r:9\"\n\n[limits]\nconnections_max = 954\n\
             connections_per_address_max = 0\nhandshakes_max = 954\n\
             handshake_timeout_s = 10\nassociations_max = 262144\n\
             associations_per_bearer_max = 0\nassociation_ttl_s = 60\n\
             session_ttl_s = 0\nsession_idle_s = 0\nwaiting_per_address_max = 16384\n\
             creations_per_minute_max = 0\nsessions_per_user_max = 0\ndials_per_minute_max = 0\n\
             binds_max = 256\nbinds_per_user_max = 16\nbind_timeout_s = 45\n\
             tunnels_max = 4096\ntunnels_per_user_max = 0\nchannels_per_tunnel_max = 1024\n\
             ptth_connects_per_port_max = 64\nptth_listens_per_server_max = 256\n\
             ptth_listen_timeout_s = 25\nptth_connect_timeout_s = 30\n\
             ptth_accept_timeout_s = 10\nptth_join_timeout_s = 10\nptth_idle_s = 600\n\
             ptth_half_closed_s = 30\n\
             quic_streams_per_client_max = 4096\nquic_stream_window_bytes = 2097152\n\
             quic_connection_window_bytes = 16777216\nquic_stalled_bytes_max = 268435456\n\
             quic_send_window_bytes = 8388608\n\
             quic_idle_timeout_s = 20\nquic_hello_timeout_s = 5\nquic_answer_timeout_s = 10\n\
             names_per_user_max = 64\nwrong_passwords_per_minute_max = 60\n\
             spent_tokens_max = 262144\n\
             pipes_max = 3\nmemory_bytes_max = 2147483648\nspill_bytes_max = 67108864\n\
             web_bytes_max = 67108864\nweb_files_max = 4096\nweb_file_bytes_max = 8388608\n\
             websocket_ping_s = 20\nwebsocket_pong_timeout_s = 20\n\n[egress]\nreach = \"public\"\n",
        );
    }

    #[test]
    fn wrong_arguments_are_usage_errors_that_say_why() {
        let check = |args: &str, part: &str| {
            let error = parse(args).expect_err(args);
            assert_eq!(error.exit_code(), 2, "{args}");
            assert!(error.to_string().contains(part), "{args}: {error}");
        };
        check(
            "--listen localhost:80",
            "is a name; a listener needs an address",
        );
        check("--cores 0", "neither a number of cores");
        check(
            "--data-plane zplice",
            "[possible values: auto, copy, splice, ring]",
        );
        check("--spin-us 5000", "5000 is not in 0..=1000");
        check("--drain-timeout 30", "is not a length of time");
        check("--limit pipe_max=1", "did you mean \"pipes_max\"?");
        check("--open maybe", "unexpected argument 'maybe'");
        check("127.0.0.1:8080", "unexpected argument");
    }

    #[test]
    fn a_file_that_is_not_there_is_no_usage_error() {
        let args = parse("--config /nonexistent/midspan.toml").expect("valid");
        let error = args
            .settings(&HostFacts::example())
            .expect_err("no such file");
        assert!(!error.is_usage());
        let text = error.to_string();
        assert!(text.starts_with("/nonexistent/midspan.toml: cannot read the configuration: "));
    }

    #[test]
    fn help_names_every_limit() {
        let help = parse("--help").expect_err("help").to_string();
        for limit in LIMITS {
            assert!(help.contains(limit.name), "{}", limit.name);
        }
    }
}
