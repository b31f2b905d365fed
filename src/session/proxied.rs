//! Reads the header with which a load balancer says whose connection it passes on.
//!
//! It is read from those whom the operator trusts with it, and there it has to be:
//! otherwise whoever reaches them could choose its address.

use std::net::SocketAddr;

use super::link::Link;
use super::refused::Refused;
use crate::protocol::Progress;
use crate::protocol::proxy_protocol::ProxyHeader;
use crate::runtime::reactor::Reactor;
use crate::time::Timestamp;

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 10;

/// Reads the header, at most until `deadline`, and leaves what is behind it on the
/// link. `None`: the sender's own connection.
///
/// # Errors
///
/// Why there is none.
pub async fn read_proxy_header(
    reactor: &Reactor,
    link: &mut Link,
    deadline: Timestamp,
) -> Result<Option<SocketAddr>, Refused> {
    let read = async {
        let mut received = Vec::new();
        loop {
            link.read_into::<READ_BYTES>(&mut received).await?;
            match ProxyHeader::decode(&received) {
                Err(_) => return Err(Refused::NoProxyHeader),
                Ok(Progress::Partial { .. }) => {}
                Ok(Progress::Complete { value, consumed }) => {
                    link.put_back(received.split_off(consumed));
                    return Ok(match value {
                        ProxyHeader::Proxied { source, .. } => Some(source),
                        ProxyHeader::Unknown => None,
                    });
                }
            }
        }
    };
    reactor
        .deadline(deadline, read)
        .await
        .unwrap_or(Err(Refused::TooSlow))
}
