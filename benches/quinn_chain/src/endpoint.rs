//! Endpoints with the same windows and buffers as midspan's.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{RootCertStore, SupportedCipherSuite};
use socket2::{Domain, Protocol, Socket, Type};

use crate::QuicArgs;

const ALPN: &[u8] = b"quinn-chain/1";
/// The name in the certificate.
const NAME: &str = "localhost";

const SOCKET_BYTES: usize = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_WINDOW: u64 = 8 << 20;
/// What midspan keeps unacknowledged where the round trip is as short as on loopback.
const SEND_WINDOW_OF_OURS: u64 = 1 << 20;
const RELAY_STREAM_WINDOW: u32 = 2 << 20;
const PROXY_STREAM_WINDOW: u32 = 4 << 20;
const STREAMS_MAX: u32 = 4096;
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The relay's, which serves.
pub(crate) fn server(args: &QuicArgs, listen: SocketAddr) -> anyhow::Result<Endpoint> {
    let certificate = CertificateDer::from_pem_file(&args.pem).context("no certificate")?;
    let key = PrivateKeyDer::from_pem_file(&args.pem).context("no key")?;
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(args, RELAY_STREAM_WINDOW)));
    endpoint(Some(config), listen)
}

/// A proxy's connection with the relay.
pub(crate) async fn connect(
    args: &QuicArgs,
    relay: SocketAddr,
) -> anyhow::Result<(Endpoint, Connection)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&args.pem).context("no certificate")?)?;
    let mut provider = default_provider();
    if args.as_ours {
        // The server takes the first of the client's ciphers that it has.
        let is_longer = |suite: &SupportedCipherSuite| suite.suite() != TLS13_AES_128_GCM_SHA256;
        provider.cipher_suites.sort_by_key(is_longer);
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = transport(args, PROXY_STREAM_WINDOW);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    let endpoint = endpoint(None, (Ipv4Addr::UNSPECIFIED, 0).into())?;
    let connection = endpoint.connect_with(config, relay, NAME)?.await?;
    Ok((endpoint, connection))
}

fn endpoint(server: Option<ServerConfig>, listen: SocketAddr) -> anyhow::Result<Endpoint> {
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.bind(&listen.into())?;
    let mut config = EndpointConfig::default();
    // What the sender tries for is what decides.
    config.max_udp_payload_size(65_527)?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(
        config,
        server,
        UdpSocket::from(socket),
        runtime,
    )?)
}

fn transport(args: &QuicArgs, stream_window: u32) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(args.mtu);
    let send_window = match args.as_ours {
        true => SEND_WINDOW_OF_OURS,
        false => SEND_WINDOW,
    };
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .stream_receive_window(stream_window.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(send_window)
        .max_idle_timeout(Some(VarInt::from_u32(20_000).into()))
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    config
}
