//! Requests for none of the relay's own paths, and answers that are longer than a buffer.

use super::rendezvous::RelayService;
use crate::metrics::counters::Count;
use crate::protocol::http_head::{Answer, Persistence};
use crate::runtime::executor::yield_now;
use crate::session::link::Link;
use crate::session::refused::Refused;
use crate::web::WebRequest;

/// Bytes of a body that are sent at a time, one record of TLS. A connection has no more of
/// it for itself: what is behind them waits in the page, which all share.
const PIECE_BYTES: usize = 16 << 10;

impl RelayService {
    /// Answers a request with what there is beside the relay's own paths.
    pub(super) fn answer_web(&self, request: &WebRequest) -> Result<Answer, Refused> {
        let answer = self.settings().web.answer(request)?;
        let count = match answer.status() {
            302 | 308 => Count::Redirected,
            _ => Count::PagesServed,
        };
        self.world.counters.counts.increment(count);
        Ok(answer)
    }

    /// Sends an answer, as fast as the peer takes it, in the time of a handshake at most.
    pub(super) async fn send_answer(
        &self,
        link: &mut Link,
        answer: &Answer,
        persistence: Persistence,
    ) -> Result<(), Refused> {
        let reactor = &self.world.reactor;
        let until = reactor.now() + self.settings().handshake_timeout;
        let sending = async {
            let body = answer.body();
            let (start, rest) = body.split_at(body.len().min(PIECE_BYTES));
            let mut first = answer.encode_head(persistence);
            first.extend_from_slice(start);
            link.send_all(&first).await?;
            drop(first);
            for piece in rest.chunks(PIECE_BYTES) {
                // A client that never lets us wait would keep the shard to itself.
                yield_now().await;
                link.send_all(piece).await?;
            }
            std::io::Result::Ok(())
        };
        match reactor.deadline(until, sending).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(Refused::ReplyFailed),
        }
    }
}
