//! Acknowledgements to a semi-synchronous source: only of what is safe.

use std::collections::VecDeque;

use highwater_binlog::BinlogName;

use super::progress::Progress;
use crate::config::AckPolicy;
use crate::failpoint;
use crate::source::{Acknowledger, ServerError};

/// Acknowledgements that may wait for the store; the source waits for the newest anyway.
const WAITING_MAX: usize = 64;

/// A place up to which the source wants to know that we are safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedAck {
    /// The binlog.
    pub(super) binlog: BinlogName,
    /// Offset after the event that asks.
    pub(super) offset: u64,
    /// Bytes received up to there, as [`Progress`] counts.
    pub(super) received: u64,
}

/// What one stream has asked for and not got yet.
#[derive(Debug)]
pub(super) struct Acks {
    policy: AckPolicy,
    acknowledger: Option<Acknowledger>,
    waiting: VecDeque<WantedAck>,
}

impl Acks {
    /// Of a stream; without an acknowledger the source does not ask.
    pub(super) fn new(policy: AckPolicy, acknowledger: Option<Acknowledger>) -> Self {
        Self { policy, acknowledger, waiting: VecDeque::new() }
    }

    /// The source asks, and what it asks about is in the spool, durably.
    pub(super) fn want(&mut self, ack: Option<WantedAck>) {
        if self.waiting.len() >= WAITING_MAX && ack.is_some() {
            self.waiting.pop_back();
        }
        self.waiting.extend(ack);
    }

    /// Whether any are given.
    pub(super) fn are_given(&self) -> bool {
        self.policy != AckPolicy::Off
    }

    /// Whether it is worth cutting segments at once.
    pub(super) fn want_segments(&self) -> bool {
        self.policy == AckPolicy::Stored && !self.waiting.is_empty()
    }

    /// Acknowledges what is safe by now.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn send(&mut self, progress: &mut Progress) -> Result<(), ServerError> {
        let stored = progress.stored();
        let is_safe = |ack: &WantedAck| match self.policy {
            AckPolicy::Off => false,
            AckPolicy::Local => true,
            AckPolicy::Stored => ack.received <= stored,
        };
        let mut safe = None;
        while self.waiting.front().is_some_and(is_safe) {
            safe = self.waiting.pop_front();
        }
        let (Some(ack), Some(acknowledger)) = (safe, &mut self.acknowledger) else { return Ok(()) };
        progress.acknowledge(ack.received, self.policy);
        failpoint::crash("ack.before");
        acknowledger.acknowledge(&ack.binlog, ack.offset).await?;
        failpoint::crash("ack.after");
        Ok(())
    }

    /// The bug that tests must notice: an acknowledgement of what is only received.
    pub(super) async fn want_too_early(&mut self, ack: &Option<WantedAck>) {
        if let (true, Some(ack), Some(acknowledger)) = (failpoint::is_broken("broken.ack"), ack, &mut self.acknowledger)
        {
            let _ = acknowledger.acknowledge(&ack.binlog, ack.offset).await;
        }
    }
}
