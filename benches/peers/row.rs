//! The rows: who relays, and how it is set up.

use std::fs;
use std::process::Command;

use anyhow::Context;
use midspan::access::ApiKey;

use crate::chain::{Chain, Link, Listens};
use crate::column::{Column, Pace};
use crate::host::{BACKEND, Host, LISTEN, Package, find};
use crate::jproxy;
use crate::namespace::Namespace;
use crate::quic::{self, Hidden, Shards, Tuned};
use crate::socks::{self, Pool, Way};

/// Where Debian puts nginx's stream module.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What makes HAProxy splice.
const SPLICE: &str = "option splice-request\n    option splice-response";

/// What makes it read HTTP, and pass chunks on as they come.
const HTTP: &str = "mode http\n    option http-no-delay";

const HAPROXY_CONFIG: &str = include_str!("haproxy.cfg.in");
const NGINX_CONFIG: &str = include_str!("nginx.conf.in");

/// One relay in one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The generator dials its own backend.
    Nobody,
    /// As it comes.
    Haproxy,
    /// Made to splice both ways, through pipes of this size.
    HaproxySplice { pipe_bytes: u32 },
    /// With a buffer of this size per direction.
    Nginx { buffer_kib: u32 },
    /// With this data plane.
    Midspan { plane: &'static str },
    /// Ending TLS, with a buffer of this size.
    HaproxyTls { buffer_bytes: u32 },
    /// Relaying the bodies of a request and its answer, one of which has the chunks, spliced
    /// where it can, with pipes and buffers of this size.
    HaproxyHttp { bytes: u32, sender: Sender },
    /// Relaying the bodies of a tunnel's requests, with this data plane.
    MidspanHttp { plane: &'static str },
    /// Dialled over this by the connector, by plain TCP by the acceptor.
    MidspanOver { transport: &'static str },
    /// A small SOCKS5 proxy.
    Microsocks,
    /// A SOCKS5 proxy with SSH behind it.
    Ssh,
    /// Our own with our relay behind it, over this.
    MidspanSocks {
        transport: &'static str,
        pool: Pool,
        way: Way,
    },
    /// Tunnels of the generator's own, with a channel each.
    MidspanJproxy,
    /// Our client with our relay behind it, by a tunnel, with TLS around it or without.
    MidspanJproxyClient { is_tls: bool },
    /// A port forwarded by quinn and tokio, with UDP payloads of at most so many bytes.
    QuinnChain { mtu: u16, tuned: Tuned },
    /// A port forwarded by rathole.
    Rathole { hidden: Hidden },
    /// A port forwarded by our relay and both proxies over QUIC, likewise.
    MidspanQuic { mtu: u16, at: Shards },
}

/// Who sends, through a proxy of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

impl Row {
    /// All rows, ours last.
    pub(crate) fn all() -> Vec<Self> {
        let splice = [65_536, 262_144, 1_048_576];
        let planes = ["copy", "splice", "ring", "auto"];
        let mut rows = vec![Self::Nobody, Self::Haproxy];
        rows.extend(splice.map(|pipe_bytes| Self::HaproxySplice { pipe_bytes }));
        rows.extend([64, 256].map(|buffer_kib| Self::Nginx { buffer_kib }));
        rows.extend(planes.map(|plane| Self::Midspan { plane }));
        rows
    }

    /// Those that end TLS, ours last.
    pub(crate) fn over_tls() -> Vec<Self> {
        let buffers = [16 << 10, 64 << 10];
        let mut rows: Vec<Self> = buffers
            .map(|buffer_bytes| Self::HaproxyTls { buffer_bytes })
            .into();
        rows.push(Self::MidspanOver { transport: "tls" });
        rows
    }

    /// Ours over WebSocket, behind the same that copies plain bytes.
    pub(crate) fn over_websocket() -> Vec<Self> {
        let mut rows = vec![Self::Midspan { plane: "copy" }];
        rows.extend(["ws", "wss"].map(|transport| Self::MidspanOver { transport }));
        rows
    }

    /// Those that relay the bodies of HTTP, ours last.
    pub(crate) fn over_http() -> Vec<Self> {
        let mut rows = Vec::new();
        for sender in [Sender::Client, Sender::Server] {
            let sizes = [16 << 10, 64 << 10, 256 << 10, 1 << 20];
            rows.extend(sizes.map(|bytes| Self::HaproxyHttp { bytes, sender }));
        }
        rows.extend(["copy", "auto"].map(|plane| Self::MidspanHttp { plane }));
        rows
    }

    /// Those that are asked by SOCKS5 to dial, behind the same of ours without SOCKS.
    pub(crate) fn through_socks() -> Vec<Self> {
        let mut rows = vec![
            Self::Microsocks,
            Self::Ssh,
            Self::Midspan { plane: "auto" },
            Self::MidspanOver { transport: "tls" },
        ];
        rows.extend(Self::our_socks(Way::Loopback));
        rows
    }

    /// Ours, with a relay that is a round trip away.
    pub(crate) fn through_socks_far_away() -> Vec<Self> {
        Self::our_socks(Way::Link)
    }

    /// Channels of tunnels, behind a pair that is copied.
    pub(crate) fn by_jproxy() -> Vec<Self> {
        let mut rows = vec![Self::Midspan { plane: "copy" }, Self::MidspanJproxy];
        rows.extend([false, true].map(|is_tls| Self::MidspanJproxyClient { is_tls }));
        rows
    }

    /// One of those.
    pub(crate) const fn is_jproxy(&self) -> bool {
        matches!(self, Self::MidspanJproxy | Self::MidspanJproxyClient { .. })
    }

    /// A forwarded port, ours last.
    pub(crate) fn over_quic() -> Vec<Self> {
        vec![
            Self::Rathole { hidden: Hidden::No },
            Self::Rathole {
                hidden: Hidden::ByNoise,
            },
            Self::quinn(quic::MTU, Tuned::Ordinarily),
            Self::quinn(quic::MTU, Tuned::AsOurs),
            Self::quinn(quic::MTU_OF_QUINN, Tuned::Ordinarily),
            Self::quinn(quic::MTU_OF_QUINN, Tuned::AsOurs),
            Self::over_quic_at(quic::MTU, Shards::One),
            Self::over_quic_at(quic::MTU_LARGE, Shards::One),
        ]
    }

    /// A forwarded port by a relay of two cores, whose proxies come to one of them, or to both.
    pub(crate) fn across_cores() -> Vec<Self> {
        [Shards::SameOfTwo, Shards::BothOfTwo]
            .map(|at| Self::over_quic_at(quic::MTU, at))
            .into()
    }

    const fn quinn(mtu: u16, tuned: Tuned) -> Self {
        Self::QuinnChain { mtu, tuned }
    }

    const fn over_quic_at(mtu: u16, at: Shards) -> Self {
        Self::MidspanQuic { mtu, at }
    }

    fn our_socks(way: Way) -> Vec<Self> {
        let with_each_pool = |transport| {
            [Pool::Default, Pool::Empty].map(|pool| Self::MidspanSocks {
                transport,
                pool,
                way,
            })
        };
        ["ws", "wss"].into_iter().flat_map(with_each_pool).collect()
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Nobody => "no relay".to_owned(),
            Self::Haproxy => "haproxy default".to_owned(),
            Self::HaproxySplice { pipe_bytes } => format!("haproxy splice {pipe_bytes}"),
            Self::Nginx { buffer_kib } => format!("nginx {buffer_kib}k"),
            Self::Midspan { plane } => format!("midspan {plane}"),
            Self::HaproxyTls { buffer_bytes } => format!("haproxy tls {}k", buffer_bytes >> 10),
            Self::HaproxyHttp { bytes, sender } => {
                let sender = match sender {
                    Sender::Client => "request",
                    Sender::Server => "answer",
                };
                format!("haproxy http {}k, {sender}", bytes >> 10)
            }
            Self::MidspanHttp { plane } => format!("midspan http {plane}"),
            Self::MidspanOver { transport } => format!("midspan {transport}"),
            Self::Microsocks => "microsocks".to_owned(),
            Self::Ssh => "ssh -D".to_owned(),
            Self::MidspanSocks {
                transport,
                pool,
                way,
            } => {
                let far = match way {
                    Way::Loopback => "",
                    Way::Link => ", far away",
                };
                let without = match pool {
                    Pool::Default => "",
                    Pool::Empty => ", no pool",
                };
                format!("midspan socks, {transport}{far}{without}")
            }
            Self::MidspanJproxy => "midspan jproxy".to_owned(),
            Self::MidspanJproxyClient { is_tls } => match is_tls {
                true => "midspan jproxy+tls, both ends".to_owned(),
                false => "midspan jproxy, both ends".to_owned(),
            },
            Self::QuinnChain { mtu, tuned } => match tuned {
                Tuned::Ordinarily => format!("quinn {mtu}"),
                Tuned::AsOurs => format!("quinn {mtu}, set up as ours"),
            },
            Self::Rathole { hidden } => match hidden {
                Hidden::No => "rathole".to_owned(),
                Hidden::ByNoise => "rathole noise".to_owned(),
            },
            Self::MidspanQuic { mtu, at } => format!("midspan quic {mtu}{}", at.suffix()),
        }
    }

    /// One of ours.
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Midspan { .. }
                | Self::MidspanHttp { .. }
                | Self::MidspanOver { .. }
                | Self::MidspanSocks { .. }
                | Self::MidspanJproxy
                | Self::MidspanJproxyClient { .. }
                | Self::MidspanQuic { .. }
        )
    }

    /// One of those that we want to be better than.
    pub(crate) const fn is_peer(&self) -> bool {
        matches!(
            self,
            Self::Haproxy
                | Self::HaproxySplice { .. }
                | Self::HaproxyTls { .. }
                | Self::HaproxyHttp { .. }
                | Self::Nginx { .. }
                | Self::Microsocks
                | Self::Ssh
                | Self::QuinnChain { .. }
                | Self::Rathole { .. }
        )
    }

    /// What shows what SOCKS costs, with at least the same encryption, or what the pool gives;
    /// or who forwards a port by datagrams that are as long, or as long as suits him.
    pub(crate) const fn counterpart(&self) -> Option<Self> {
        if let Self::MidspanQuic { mtu, at } = *self {
            return match at {
                Shards::One if mtu == quic::MTU_LARGE => {
                    Some(Self::quinn(quic::MTU_OF_QUINN, Tuned::Ordinarily))
                }
                Shards::One => Some(Self::quinn(mtu, Tuned::Ordinarily)),
                Shards::SameOfTwo => None,
                Shards::BothOfTwo => Some(Self::over_quic_at(mtu, Shards::SameOfTwo)),
            };
        }
        if self.is_jproxy() {
            return Some(Self::Midspan { plane: "copy" });
        }
        let Self::MidspanSocks {
            transport,
            pool,
            way,
        } = *self
        else {
            return None;
        };
        match (way, pool) {
            (Way::Loopback, _) => Some(match transport.as_bytes() {
                b"wss" => Self::MidspanOver { transport: "tls" },
                _ => Self::Midspan { plane: "auto" },
            }),
            (Way::Link, Pool::Default) => Some(Self::MidspanSocks {
                transport,
                pool: Pool::Empty,
                way,
            }),
            (Way::Link, Pool::Empty) => None,
        }
    }

    /// Whether a column says anything about this row: a pool is for pairs that come about.
    pub(crate) fn is_measured_by(&self, column: Column) -> bool {
        match self {
            Self::MidspanSocks {
                pool: Pool::Empty, ..
            } => column == Column::Connects,
            // A proxy's pair is one connection, which is kept for the next.
            Self::HaproxyHttp { .. } => column != Column::Join(Pace::AtATime(4)),
            _ => true,
        }
    }

    /// What of Debian it needs.
    pub(crate) const fn packages(&self) -> &'static [Package] {
        match self {
            Self::Haproxy
            | Self::HaproxySplice { .. }
            | Self::HaproxyTls { .. }
            | Self::HaproxyHttp { .. } => &[("haproxy", "haproxy")],
            Self::Nginx { .. } => &[
                ("nginx", "nginx-light"),
                (NGINX_STREAM_MODULE, "libnginx-mod-stream"),
            ],
            Self::Microsocks => &[("microsocks", "microsocks")],
            Self::Ssh => &[("sshd", "openssh-server"), ("ssh", "openssh-client")],
            Self::Nobody
            | Self::Midspan { .. }
            | Self::MidspanHttp { .. }
            | Self::MidspanOver { .. }
            | Self::MidspanSocks { .. }
            | Self::MidspanJproxy
            | Self::MidspanJproxyClient { .. }
            | Self::QuinnChain { .. }
            | Self::Rathole { .. }
            | Self::MidspanQuic { .. } => &[],
        }
    }

    /// The load generator's arguments that lead through this relay.
    pub(crate) fn route(&self, host: &Host) -> Vec<String> {
        let [server_key, client_key] = keys().map(|key| key.to_string());
        let key_file = jproxy::key_file(host).display().to_string();
        let words: &[&str] = match self {
            Self::HaproxyHttp { sender, .. } => {
                let http = &[
                    "--target",
                    LISTEN,
                    "--backend",
                    BACKEND,
                    "--http",
                    "--reverse",
                ];
                match sender {
                    Sender::Client => &http[..5],
                    Sender::Server => http,
                }
            }
            Self::MidspanHttp { .. } => &[
                "--ptth",
                LISTEN,
                "--server-key",
                &server_key,
                "--client-key",
                &client_key,
            ],
            Self::HaproxyTls { .. } => &[
                "--target",
                LISTEN,
                "--backend",
                BACKEND,
                "--near",
                "tls",
                "--pin",
                &host.pin,
            ],
            Self::MidspanOver { transport } => {
                &["--jet", LISTEN, "--near", transport, "--pin", &host.pin]
            }
            Self::Nobody => &["--direct"],
            Self::Midspan { .. } => &["--jet", LISTEN],
            Self::Microsocks
            | Self::Ssh
            | Self::MidspanSocks { .. }
            | Self::MidspanJproxyClient { .. } => &["--socks", LISTEN, "--backend", BACKEND],
            Self::MidspanJproxy => &["--jproxy", LISTEN, "--key-file", &key_file],
            Self::Haproxy
            | Self::HaproxySplice { .. }
            | Self::Nginx { .. }
            | Self::QuinnChain { .. }
            | Self::Rathole { .. }
            | Self::MidspanQuic { .. } => &["--target", LISTEN, "--backend", BACKEND],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Starts its processes, and returns once they listen.
    pub(crate) fn start(&self, host: &Host, namespace: &Namespace) -> anyhow::Result<Chain> {
        self.links(host)
            .and_then(|links| Chain::start(host, namespace, links))
            .with_context(|| format!("{} does not start", self.name()))
    }

    /// Its processes, that which the generator dials last.
    fn links(&self, host: &Host) -> anyhow::Result<Vec<Link>> {
        let command = match self {
            Self::Nobody => return Ok(Vec::new()),
            Self::Microsocks => return socks::microsocks(),
            Self::Ssh => return socks::ssh(host),
            Self::MidspanSocks {
                transport,
                pool,
                way,
            } => return socks::midspan(host, transport, *pool, *way),
            Self::MidspanJproxy => return Ok(vec![jproxy::relay(host, LISTEN, "jproxy")?]),
            Self::MidspanJproxyClient { is_tls } => return jproxy::chain(host, *is_tls),
            Self::QuinnChain { mtu, tuned } => return Ok(quic::quinn(host, *mtu, *tuned)),
            Self::Rathole { hidden } => return quic::rathole(host, *hidden),
            Self::MidspanQuic { mtu, at } => return quic::midspan(host, *mtu, *at),
            Self::Haproxy => haproxy(host, "", "", "")?,
            Self::HaproxyTls { buffer_bytes } => haproxy(
                host,
                &format!("tune.bufsize {buffer_bytes}"),
                "",
                // Whole handshakes, as the generator asks for no others.
                &format!("ssl crt {} no-tls-tickets", host.both_pem().display()),
            )?,
            Self::HaproxySplice { pipe_bytes } => {
                haproxy(host, &format!("tune.pipesize {pipe_bytes}"), SPLICE, "")?
            }
            Self::HaproxyHttp { bytes, .. } => haproxy(
                host,
                &format!("tune.bufsize {bytes}\n    tune.pipesize {bytes}"),
                &format!("{SPLICE}\n    {HTTP}"),
                "",
            )?,
            Self::MidspanHttp { plane } => {
                let config = host.folder.path().join("relay.toml");
                fs::write(&config, forwarding())?;
                let mut command = midspan_relay(host, plane, LISTEN);
                command.arg("--config").arg(config);
                command
            }
            Self::Nginx { buffer_kib } => nginx(host, *buffer_kib)?,
            Self::Midspan { plane } => midspan_relay(host, plane, LISTEN),
            // The plane is for plain pairs alone.
            Self::MidspanOver { .. } => midspan_relay(host, "auto", LISTEN),
        };
        Ok(vec![Link {
            name: "relay",
            command,
            listens: Listens::At(LISTEN),
        }])
    }
}

/// Of the server whose ports are forwarded, and of a client who may reach it.
pub(crate) fn keys() -> [ApiKey; 2] {
    [1, 2].map(|byte| ApiKey::from_random([byte; 24]))
}

/// Has a relay know both.
pub(crate) fn forwarding() -> String {
    let [server, client] = keys().map(|key| key.hash());
    format!(
        "[[ptth.servers]]\nname = \"home\"\nsha256 = \"{server}\"\n\
         [[ptth.clients]]\nname = \"load\"\nsha256 = \"{client}\"\nmay = [\"home\"]\n"
    )
}

fn haproxy(host: &Host, tune: &str, options: &str, bind: &str) -> anyhow::Result<Command> {
    let config = HAPROXY_CONFIG
        .replace("@CORE@", &host.relay_core.to_string())
        .replace("@TUNE@", tune)
        .replace("@OPTIONS@", options)
        .replace("@BIND@", bind)
        .replace("@LISTEN@", LISTEN)
        .replace("@BACKEND@", BACKEND);
    let path = host.folder.path().join("haproxy.cfg");
    fs::write(&path, config)?;
    let mut command = Command::new(find("haproxy").context("haproxy is missing")?);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

fn nginx(host: &Host, buffer_kib: u32) -> anyhow::Result<Command> {
    let folder = host.folder.path();
    let config = NGINX_CONFIG
        .replace("@MODULE@", NGINX_STREAM_MODULE)
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@BUFFER@", &format!("{buffer_kib}k"))
        .replace("@LISTEN@", LISTEN)
        .replace("@BACKEND@", BACKEND);
    let path = folder.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(find("nginx").context("nginx is missing")?);
    command.arg("-c").arg(path).args(["-e", "/dev/null"]);
    Ok(command)
}

pub(crate) fn midspan_relay(host: &Host, plane: &str, listen: &str) -> Command {
    midspan_relay_on(host, "1", plane, listen)
}

/// The same with so many shards.
pub(crate) fn midspan_relay_on(host: &Host, cores: &str, plane: &str, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midspan"));
    command
        .args(["relay", "--listen", listen, "--cores", cores])
        .args(["--data-plane", plane, "--log-level", "error"])
        .arg("--create-on-accept")
        .arg("--tls-certificate")
        .arg(host.both_pem())
        .arg("--tls-key")
        .arg(host.both_pem())
        .arg("--state-dir")
        .arg(host.folder.path().join("state"));
    command
}
