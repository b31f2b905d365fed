//! What to run next at a relay that has started, and whereby others reach it.

use std::fmt;
use std::net::SocketAddr;

use super::expose::local_port;
use super::startup_report::StartupReport;
use crate::config::shell_word::{quoted, quoted_path};
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
        if users.path.is_none() || self.asks_for_certificates() {
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
        if jproxy.path.is_none() || self.asks_for_certificates() {
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
        if self.asks_for_certificates() {
            return None;
        }
        let mut listeners = self.facts.listening.iter().zip(&self.settings.listen);
        let (address, _) = listeners.find(|(_, listener)| listener.only.is_none())?;
        let is_tls = !ListenAddress(*address).is_loopback();
        let way = if is_tls { "https" } else { "http" };
        let (told, pin) = (self.told(address), self.pin(is_tls));
        Some(format!("ptth+{way}://{told}{pin}"))
    }

    /// Whether clients over TLS have to show certificates, which no agent of ours does.
    const fn asks_for_certificates(&self) -> bool {
        self.settings.tls.client_ca.is_some()
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

    /// What to run next: at two ends, by JET and by PTTH, and as a user of WebSocks and of jProxy.
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
                    quoted_path(users)
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

#[cfg(test)]
mod tests {
    use super::super::startup_report::tests::report;

    #[test]
    fn a_relay_for_others_names_itself_by_its_host() {
        let report = report(
            "--listen 0.0.0.0:80 --open --create-on-accept --jet-instance relay.example:99",
            &["0.0.0.0:80"],
        );
        assert!(
            report.contains("(JET; open to anybody who can reach it)"),
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

    /// What a relay says that has these users and this configuration.
    fn report_of_users(users: &str, config: &str, args: &str, listening: &str) -> String {
        use std::fs;
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().expect("a folder");
        let (file, list) = (
            folder.path().join("relay.toml"),
            folder.path().join("users"),
        );
        fs::write(&list, users).expect("written");
        fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).expect("chmod");
        let config = format!("{config}\n[websocks]\nusers = {list:?}\n");
        fs::write(&file, config).expect("written");
        let args = format!("--config {} {args}", file.display());
        report(&args, &[listening]).replace(&list.display().to_string(), "USERS")
    }

    #[test]
    fn a_relay_that_dials_for_users_tells_what_they_run() {
        let users = format!("a$b:{}=\nalice:{}=\n", "A".repeat(43), "A".repeat(43));
        let socks = |relay: &str| {
            format!("  midspan socks 1080 --relay {relay} --password-file FILE\n  curl --socks5-")
        };
        let plain = report_of_users(&users, "", "--listen 127.0.0.1:0", "127.0.0.1:4");
        for part in [
            "  websocks     users of USERS: 2; dials what is public\n",
            &socks("websocks+ws://alice@127.0.0.1:4"),
        ] {
            assert!(plain.contains(part), "{plain}");
        }
        let rules = "[egress]\nreach = \"everything\"\nrules = [\"deny :25\"]";
        let open = "--listen 0.0.0.0:443 --open --jet-instance relay.example";
        let open = report_of_users("", rules, open, "0.0.0.0:443");
        for part in [
            "  websocks     users of USERS: 0; dials everything, after [egress] rules: 1\n",
            "  listening    0.0.0.0:443 (JET, WebSocks; open to anybody",
            &socks("'websocks+wss://USER@relay.example:443?pin=00ff'"),
        ] {
            assert!(open.contains(part), "{open}");
        }
        let bind = "[websocks.bind]\naddresses = [\"127.0.0.1\", \"::1\"]\nanybody = true";
        let bind = report_of_users(&users, bind, "--listen 127.0.0.1:0", "127.0.0.1:4");
        assert!(
            bind.contains(
                "is public; opens ports for users at 127.0.0.1 and ::1, to anybody if they like\n"
            ),
            "{bind}"
        );
        let other = "--listen jet+tls://127.0.0.1:0";
        let other = report_of_users(&users, "", other, "127.0.0.1:4");
        assert!(!other.contains("midspan socks"), "{other}");
    }

    #[test]
    fn a_relay_of_jproxy_tells_what_its_users_run() {
        use std::fs;
        use std::os::unix::fs::PermissionsExt;

        use crate::access::jproxy::KeyPair;

        let folder = tempfile::tempdir().expect("a folder");
        let (file, users) = (folder.path().join("relay.toml"), folder.path());
        let report = |lines: &str, args: &str, listening: &str| {
            let config = format!("[jproxy]\nusers = {users:?}\n{lines}");
            fs::write(&file, config).expect("written");
            let args = format!("--config {} {args}", file.display());
            report(&args, &[listening]).replace(&users.display().to_string(), "USERS")
        };
        let key = "  midspan key jproxy alice --key-file FILE --user-dir USERS\n";
        let socks = |relay: &str| format!("{key}  midspan socks 1080 --relay {relay} --key-file");
        // It needs no --open, and is not said to be open.
        let far = "--listen jproxy+tls://0.0.0.0:443 --jet-instance relay.example";
        let far = report("", far, "0.0.0.0:443");
        for part in [
            " relays jProxy\n",
            "  listening    0.0.0.0:443 (jproxy+tls alone; who has a key)\n",
            "  certificate  made here, SHA-256 00ff\n",
            "  jproxy       users of USERS: 0; dialect spec; dials what is public\n",
            &socks("'jproxy+tls://relay.example:443?pin=00ff'"),
        ] {
            assert!(far.contains(part), "{far}");
        }
        for absent in ["expose", "associations"] {
            assert!(!far.contains(absent), "{far}");
        }
        let near = "--listen jproxy://127.0.0.1:0?dialect=original";
        let near = report("", near, "127.0.0.1:4");
        let original = socks("jproxy://127.0.0.1:4 --dialect original");
        assert!(near.contains(&original), "{near}");
        assert!(!near.contains("certificate"), "{near}");
        let any = report(
            "dialect = \"original\"\n",
            "--listen 127.0.0.1:0",
            "127.0.0.1:4",
        );
        let original = socks("'jproxy+tls://127.0.0.1:4?pin=00ff' --dialect original");
        assert!(any.contains(&original), "{any}");
        let head = " relays JET over TCP, TLS and WebSocket; jProxy\n  listening    127.0.0.1:4 (JET, \
                    jProxy; this host only)\n";
        assert!(any.contains(head), "{any}");
        let other = report("", "--listen jet+tls://127.0.0.1:0", "127.0.0.1:4");
        assert!(!other.contains("midspan socks"), "{other}");

        // Whoever is there has its key, and the name cannot be had again.
        let alice = KeyPair::generate("alice").expect("a key");
        let of_alice = users.join(&alice.user_file_name);
        fs::write(&of_alice, &alice.user_file).expect("written");
        fs::set_permissions(&of_alice, fs::Permissions::from_mode(0o600)).expect("chmod");
        let known = report("", "--listen jproxy://127.0.0.1:0", "127.0.0.1:4");
        let next = "\nTry next as a user of jProxy, with its key in FILE:\n  midspan socks 1080 \
                    --relay jproxy://127.0.0.1:4 --key-file FILE\n  curl --socks5-hostname";
        assert!(known.contains(next), "{known}");
        assert!(!known.contains("midspan key"), "{known}");
    }

    #[test]
    fn a_relay_that_forwards_ports_tells_who_may_and_what_to_try() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("relay.toml");
        let report = |args: &str, listening: &str| {
            let hash = |last: char| format!("{}{last}", "A".repeat(42));
            let config = format!(
                "[[ptth.servers]]\nname = \"home\"\nsha256 = \"{}\"\n\
                 [[ptth.servers]]\nname = \"lab\"\nsha256 = \"{}\"\n\
                 [[ptth.clients]]\nname = \"alice\"\nsha256 = \"{}\"\n\
                 may = [\"moon\", \"lab:80\"]\n",
                hash('A'),
                hash('E'),
                hash('I')
            );
            std::fs::write(&file, config).expect("written");
            report(&format!("--config {} {args}", file.display()), &[listening])
        };
        let near = report("--listen 127.0.0.1:0", "127.0.0.1:4");
        let relay = "--relay ptth+http://127.0.0.1:4 --key-file FILE\n";
        for part in [
            "  listening    127.0.0.1:4 (JET, PTTH; this host only)\n",
            "  forwarding   by PTTH over HTTP; servers: 2, clients: 1\n",
            &format!("\n  midspan expose lab --to 80=127.0.0.1:80 {relay}"),
            &format!("\n  midspan forward 8080 --to lab:80 {relay}"),
        ] {
            assert!(near.contains(part), "{near}");
        }
        let open = "--listen 0.0.0.0:443 --open --jet-instance relay.example";
        let far = report(open, "0.0.0.0:443");
        let relay = "--relay 'ptth+https://relay.example:443?pin=00ff' --key-file FILE\n";
        assert!(far.contains(relay), "{far}");
        let by_quic = report(
            "--listen 127.0.0.1:0 --quic-listen 127.0.0.1:443",
            "127.0.0.1:4",
        );
        let relay = "--relay 'ptth+quic://127.0.0.1:443?pin=00ff' --key-file FILE\n";
        assert!(by_quic.contains(relay), "{by_quic}");
        let other = report("--listen jet+tls://127.0.0.1:0", "127.0.0.1:4");
        assert!(!other.contains("midspan expose"), "{other}");
        let by_http = report("--listen jet+ws://127.0.0.1:0", "127.0.0.1:4");
        for part in [
            " relays JET over WebSocket; PTTH\n",
            " (jet+ws alone: JET, PTTH; this host only)\n",
        ] {
            assert!(by_http.contains(part), "{by_http}");
        }
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
