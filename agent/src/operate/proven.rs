//! A dump whose point is proven to be one of the timeline's history.
//!
//! A source that is reset or restored gives GTIDs again, and a dump of its new history may have a set that the old one had
//! too. So a dump is published only when capture, in one connection that began before the dump's point, has got all that the
//! dump has, and when the source then sends what was captured last once more, byte for byte.

use std::time::Duration;

use highwater_catalog::TimelineId;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::archive::Archive;
use crate::capture::{CaptureError, Followed};
use crate::dump::{DumpError, DumpOptions, DumpOrigin, DumpPoint, TakenDump, read};
use crate::server::ServerLogin;

/// Capture is asked again after this long for what the dump has.
const LOOK: Duration = Duration::from_secs(1);

/// Times that the last bytes are looked for: they move from the spool to the archive meanwhile.
const ATTEMPTS: u32 = 5;

/// Why a dump was not published.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnprovenDump {
    /// It could not be taken.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Capture lost the source before it had what the dump has.
    #[error(
        "capture lost the source before it had all transactions of the dump: whether it has the history of timeline {timeline} is not known"
    )]
    Unfollowed {
        /// The timeline.
        timeline: TimelineId,
    },
    /// The source does not have what was captured.
    #[error("the dump is none of the history of timeline {timeline}")]
    OtherHistory {
        /// The timeline.
        timeline: TimelineId,
        /// What was found.
        #[source]
        source: CaptureError,
    },
}

/// Takes a dump of the history that capture follows and publishes it.
pub(super) async fn take(
    login: &ServerLogin,
    archive: &Archive,
    mut followed: watch::Receiver<Option<Followed>>,
    began: Followed,
) -> Result<TakenDump, UnprovenDump> {
    let timeline = began.witness.timeline();
    let origin = DumpOrigin {
        // Of a timeline that begins, nothing was captured yet.
        servers: began.witness.servers().chain([began.server]).collect(),
        captured: began.witness.captured().clone(),
    };
    let options = DumpOptions { origin: Some(origin), ..DumpOptions::new(timeline) };
    let (point_to, mut point) = watch::channel(None);
    let tell = |point| {
        point_to.send_replace(Some(point));
    };
    let reading = async { Ok(read(login, archive, &options, &tell, &|_| {}).await?) };
    let proving = async {
        let unfollowed = |_| UnprovenDump::Unfollowed { timeline };
        let point = point.wait_for(Option::is_some).await.map_err(unfollowed)?.clone();
        let Some(point) = point else { return Ok(()) };
        prove(&mut followed, &began, &point).await
    };
    let (dump, ()) = tokio::try_join!(reading, proving)?;
    Ok(dump.publish().await?)
}

/// Waits until what the dump has was captured without a break, and asks the source for the last of it again.
async fn prove(
    followed: &mut watch::Receiver<Option<Followed>>,
    began: &Followed,
    point: &DumpPoint,
) -> Result<(), UnprovenDump> {
    let timeline = began.witness.timeline();
    let mut attempts = 0;
    loop {
        let now = followed.borrow_and_update().clone().filter(|now| now.connection == began.connection);
        let Some(Followed { witness, cut_wanted, .. }) = now else { return Err(UnprovenDump::Unfollowed { timeline }) };
        let is_captured = match (point.by_gtids, &point.position) {
            (true, _) => point.gtids.is_subset(witness.captured()),
            (false, Some(position)) => witness.has_reached(point.server, position),
            (false, None) => false,
        };
        if is_captured {
            attempts += 1;
            match witness.confirm().await {
                Err(CaptureError::Spool { .. }) if attempts < ATTEMPTS => {}
                confirmed => return confirmed.map_err(|source| UnprovenDump::OtherHistory { timeline, source }),
            }
        }
        if !is_captured {
            // A segment may be cut much later otherwise.
            cut_wanted.notify_one();
        }
        if let Ok(changed) = timeout(LOOK, followed.changed()).await {
            changed.map_err(|_| UnprovenDump::Unfollowed { timeline })?;
        }
    }
}
