//! Whether the server of a dump still answers. A statement of a dump may take long, and a connection of which the other end
//! is gone looks the same; so a further connection asks all the time.

use std::convert::Infallible;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::time::{sleep, timeout};

use super::error::DumpError;
use super::session::Doing;
use crate::source::Session;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(5);

/// A server that has no answer to an empty question for so long is gone, or of no use.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Asks until there is no answer.
pub(super) async fn watch(mut session: Session) -> DumpError {
    match beat(&mut session).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn beat(session: &mut Session) -> Result<Infallible, DumpError> {
    loop {
        sleep(PAUSE).await;
        match timeout(ANSWER_MAX, session.conn().ping()).await {
            Ok(answer) => answer.doing(|| "ask the source whether it is there".to_owned())?,
            Err(_) => return Err(DumpError::Silent { seconds: ANSWER_MAX.as_secs() }),
        }
    }
}
