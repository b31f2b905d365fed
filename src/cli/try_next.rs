//! What to run next at a relay that has started, and whereby others reach it.

use std::fmt;
use std::net::SocketAddr;

use super::expose::local_port;
use super::startup_report::StartupReport;
use crate::config::shell_word::quoted;
use crate::config::{ListenAddress, Pinned};
use crate::protocol::jet::Transport;
use crate::protocol::jproxy::Dialect;

impl StartupReport<'_> {
    /// The relay's URL as others on the same network would dial it: the first
    /// listener that serves JET, or the host's name where that has every address.
    fn relay_url(&self) -> Option<String> {
        let mut listeners = self.facts.listening.iter().zip(&self.settings.listen);
        let (address, transport) = listeners.find_map(|(address, listener)| {
            let transport = listener.only.map_or(Some(Transport::Tcp), Pinned::jet);
            Some((address, transport?))
        })?;
        let pin = self.pin(transport.is_tls());
        Some(format!(
            "{}://{}{pin}",
            transport.scheme(),
            self.told(address)
        ))
    }

    /// The same for a user of WebSocks, at the first listener that serves it: over TLS, but
    /// on loopback.
    fn websocks_url(&self) -> Option<String> {
        let users = &self.settings.users;
        // Who has to show a certificate as well comes by no agent of ours.
        if users.path.is_none() || self.settings.tls.client_ca.is_some() {
            return None;
        }
        let mut listeners = self.facts.listening.iter().zip(&self.settings.listen);
        let (address, is_tls) = listeners.find_map(|(address, listener)| match listener.only {
            None => Some((address, !ListenAddress(*address).is_loopback())),
            Some(Pinned::Jet(Transport::Ws)) => Some((address, false)),
            Some(Pinned::Jet(Transport::Wss)) => Some((address, true)),
            Some(_) => None,
        })?;
        let way = if is_tls { "wss" } else { "ws" };
        let mut names = users.users.all().iter().map(|user| &*user.name);
        let user = names.find(|name| is_plain(name)).unwrap_or("USER");
        let (told, pin) = (self.told(address), self.pin(is_tls));
        Some(format!("websocks+{way}://{user}@{told}{pin}"))
    }

    /// The same for a user of jProxy, at the first listener that is for it, or else that takes it
    /// over TLS; and the dialect that is set there.
    fn jproxy_url(&self) -> Option<(String, Dialect)> {
        let jproxy = &self.settings.jproxy;
        // Who has to show a certificate as well comes by no agent of ours.
        if jproxy.path.is_none() || self.settings.tls.client_ca.is_some() {
            return None;
        }
        let listeners = || self.facts.listening.iter().zip(&self.settings.listen);
        let pinned = listeners().find_map(|(address, listener)| match listener.only? {
            Pinned::Jproxy { is_tls, dialect } => Some((address, is_tls, dialect)),
            Pinned::Jet(_) => None,
        });
        let any = || listeners().find(|(_, listener)| listener.only.is_none());
        let (address, is_tls, dialect) =
            pinned.or_else(|| any().map(|(address, _)| (address, true, None)))?;
        let (told, pin) = (self.told(address), self.pin(is_tls));
        let way = if is_tls { "jproxy+tls" } else { "jproxy" };
        let url = format!("{way}://{told}{pin}");
        Some((url, dialect.unwrap_or(jproxy.dialect)))
    }

    /// The same for the proxies of PTTH: by QUIC where that is spoken, else at the first
    /// listener that takes everything.
    fn ptth_url(&self) -> Option<String> {
        if self.settings.forwarding.is_empty() {
            return None;
        }
        if let Some(address) = self.facts.quic.first() {
            let (told, pin) = (self.told(address), self.pin(true));
            return Some(format!("ptth+quic://{told}{pin}"));
        }
        // Who has to show a certificate as well comes by no agent of ours.
        if self.settings.tls.client_ca.is_some() {
            return None;
        }
        let mut listeners = self.facts.listening.iter().zip(&self.settings.listen);
        let (address, _) = listeners.find(|(_, listener)| listener.only.is_none())?;
        let is_tls = !ListenAddress(*address).is_loopback();
        let way = if is_tls { "https" } else { "http" };
        let (told, pin) = (self.told(address), self.pin(is_tls));
        Some(format!("ptth+{way}://{told}{pin}"))
    }

    /// Host and port by which others reach this address.
    fn told(&self, address: &SocketAddr) -> String {
        match address.ip().is_unspecified() {
            true => format!("{}:{}", self.settings.jet.instance.host(), address.port()),
            false => address.to_string(),
        }
    }

    /// By what a relay over TLS is known that made its certificate.
    fn pin(&self, is_tls: bool) -> String {
        let fingerprint = self.facts.fingerprint.as_ref().filter(|_| is_tls);
        fingerprint.map_or_else(String::new, |print| format!("?pin={print}"))
    }

    /// What to run next at two ends, and as a user of WebSocks.
    pub(super) fn try_next(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relay = self.relay_url();
        if let Some(relay) = relay.filter(|_| self.settings.create_on_accept) {
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
            )?;
        }
        if let (Some(relay), Some((server, port))) =
            (self.ptth_url(), self.settings.forwarding.example())
        {
            let port = port
                .and_then(|port| port.as_str().parse().ok())
                .unwrap_or(22);
            let (relay, local) = (quoted(&relay), local_port(Some(port)));
            write!(
                f,
                "
Try next by PTTH, where the service is, with the server's key in a file that nobody else may read:
  midspan expose {server} --to {port}=127.0.0.1:{port} --relay {relay} --key-file FILE
and where it is wanted, with a client's:
  midspan forward {local} --to {server}:{port} --relay {relay} --key-file FILE
"
            )?;
        }
        if let Some(relay) = self.websocks_url() {
            write!(
                f,
                "
Try next as a user of WebSocks, with the password in a file that nobody else may read:
  midspan socks 1080 --relay {} --password-file FILE
  curl --socks5-hostname 127.0.0.1:1080 http://example.com/
",
                quoted(&relay)
            )?;
        }
        if let (Some((relay, dialect)), Some(users)) =
            (self.jproxy_url(), &self.settings.jproxy.path)
        {
            let dialect = match dialect {
                Dialect::Spec => String::new(),
                Dialect::Original => format!(" --dialect {dialect}"),
            };
            match self.settings.jproxy.users.is_empty() {
                true => write!(
                    f,
                    "
Try next as a user of jProxy, whose file the relay has to be let read:
  midspan key jproxy alice --key-file FILE --user-dir {}",
                    quoted(&users.display().to_string())
                )?,
                false => write!(f, "\nTry next as a user of jProxy, with its key in FILE:")?,
            }
            write!(
                f,
                "
  midspan socks 1080 --relay {}{dialect} --key-file FILE
  curl --socks5-hostname 127.0.0.1:1080 http://example.com/
",
                quoted(&relay)
            )?;
        }
        Ok(())
    }
}

/// Whether a user's name needs no quotes in a shell, and stands in a URL as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.bytes().all(is_plain)
}
