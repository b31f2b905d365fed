//! What peers are told about the ways to this relay, `jet.urls` and `jet.stun`; and
//! who passes on their connections or requests, `proxy_protocol_from` and `forwarded_for_from`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::file::{ConfigFile, Written};
use super::{ConfigError, Problem};
use crate::protocol::jet::PublicUrl;

/// The most URLs by which a relay is reached.
pub const URLS_MAX: usize = 8;

/// The URLs that the file lists.
pub(super) fn urls(file: Option<&ConfigFile>) -> Result<Vec<PublicUrl>, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().jet.urls.as_ref()?)));
    let Some((file, written)) = in_file else {
        return Ok(Vec::new());
    };
    let count = written.get_ref().len();
    if count > URLS_MAX {
        let problem = Problem::TooManyUrls {
            count,
            max: URLS_MAX,
        };
        return Err(ConfigError::new(file.place(written), problem));
    }
    let mut urls = Vec::new();
    for written in written.get_ref() {
        let problem = match written.get_ref().parse::<PublicUrl>() {
            Ok(url) if urls.contains(&url) => Problem::UrlTwice { url },
            Ok(url) => {
                urls.push(url);
                continue;
            }
            Err(error) => Problem::Url(error),
        };
        return Err(ConfigError::new(file.place(written), problem));
    }
    Ok(urls)
}

/// The networks of such a list in the file; an address is a network of its own.
pub(super) fn networks(
    file: Option<&ConfigFile>,
    list: impl FnOnce(&Written) -> &[toml::Spanned<String>],
) -> Result<Vec<IpNet>, ConfigError> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let parse = |written: &toml::Spanned<String>| {
        let text = written.get_ref();
        let network = text.parse::<IpNet>();
        let network = network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| {
            let problem = Problem::Network {
                written: text.clone(),
            };
            ConfigError::new(file.place(written), problem)
        })
    };
    list(file.written()).iter().map(parse).collect()
}

/// The STUN and TURN servers that the file lists.
pub(super) fn stun(file: Option<&ConfigFile>) -> Result<Vec<String>, ConfigError> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let check = |written: &toml::Spanned<String>| {
        let url = written.get_ref();
        let (scheme, host) = url.split_once(':').unwrap_or_default();
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:?=".contains(&byte);
        let is_url = matches!(scheme, "stun" | "stuns" | "turn" | "turns")
            && !host.is_empty()
            && host.bytes().all(is_host);
        if is_url {
            return Ok(url.clone());
        }
        let problem = Problem::Stun {
            written: url.clone(),
        };
        Err(ConfigError::new(file.place(written), problem))
    };
    file.written().jet.stun.iter().map(check).collect()
}
