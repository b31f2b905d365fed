//! Connects to the first address of a host that lets us: RFC 8305.
//!
//! Left out: preferring what was fast before (§8), and asking for both families apart: the
//! system's resolver gives them together and sorted (RFC 6724).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::reactor::Reactor;
use super::stream::Stream;
use crate::time::Timestamp;

/// How long an attempt has before the next address is tried beside it: RFC 8305 §5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of one host that are tried. Some names have dozens.
const ADDRESSES_MAX: usize = 8;

type Attempt = Pin<Box<dyn Future<Output = io::Result<Stream>>>>;

/// Connects to the first of these that lets us, at most until `until`.
///
/// # Errors
///
/// What the last attempt said that failed; `TimedOut` when none had ended by then, and
/// `AddrNotAvailable` without an address.
pub async fn connect_first(
    reactor: &Rc<Reactor>,
    addresses: &[SocketAddr],
    until: Timestamp,
) -> io::Result<Stream> {
    let mut left = in_turns(addresses).into_iter().take(ADDRESSES_MAX);
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failure = None;
    loop {
        match left.next() {
            Some(address) => {
                let attempt = Stream::connect(Rc::clone(reactor), address);
                attempts.push(Box::pin(attempt));
            }
            None if attempts.is_empty() => {
                return Err(failure.unwrap_or(io::ErrorKind::AddrNotAvailable.into()));
            }
            None => {}
        }
        let is_last = left.len() == 0;
        let turn = match is_last {
            true => until,
            false => until.min(reactor.now() + ATTEMPT_DELAY),
        };
        match reactor.deadline(turn, first(&mut attempts)).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failure = Some(error),
            None if reactor.now() >= until => {
                return Err(failure.unwrap_or(io::ErrorKind::TimedOut.into()));
            }
            None => {}
        }
    }
}

/// What the first attempt says that ends; it is no longer among them.
async fn first(attempts: &mut Vec<Attempt>) -> io::Result<Stream> {
    poll_fn(|context| {
        for index in 0..attempts.len() {
            if let Poll::Ready(outcome) = attempts[index].as_mut().poll(context) {
                drop(attempts.swap_remove(index));
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    })
    .await
}

/// The addresses with their families in turns, beginning with that of the first: RFC 8305
/// §4. A family that leads nowhere so costs one delay.
fn in_turns(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return Vec::new();
    };
    let is_of_first = |address: &&SocketAddr| address.is_ipv6() == first.is_ipv6();
    let (ours, others): (Vec<_>, Vec<_>) = addresses.iter().partition(is_of_first);
    let longer = ours.len().max(others.len());
    (0..longer)
        .flat_map(|index| [ours.get(index), others.get(index)])
        .flatten()
        .map(|address: &&SocketAddr| **address)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let check = |addresses: &[&str], expected: &[&str]| {
            let parse = |text: &&str| text.parse::<SocketAddr>().expect("an address");
            let addresses: Vec<_> = addresses.iter().map(parse).collect();
            let expected: Vec<_> = expected.iter().map(parse).collect();
            assert_eq!(in_turns(&addresses), expected);
        };
        let (a, b, c) = ("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1");
        let (x, y) = ("[fd00::1]:1", "[fd00::2]:1");
        check(&[], &[]);
        check(&[a, b], &[a, b]);
        check(&[x, y, a, b, c], &[x, a, y, b, c]);
        check(&[a, b, c, x], &[a, x, b, c]);
    }
}
