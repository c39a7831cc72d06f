//! Where a source is: a server that sends its binlog, or a server's disk that has it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use highwater_binlog::{BinlogName, BinlogPosition, FIRST_EVENT_OFFSET, GtidSet};
use tokio::task::spawn_blocking;

use super::acks::Acks;
use super::continuity::{Discontinuity, Request, Start, check_settings, decide, decide_by_position, warnings};
use super::error::CaptureError;
use super::reader::Stream;
use super::tip::Tip;
use crate::config::AckPolicy;
use crate::server::ServerLogin;
use crate::source::{
    BinlogFile, BinlogStream, FileStream, FilesHistory, GtidMode, ReplicaIdentity, ReplicationClient, SemiSync,
    ServerError, ServerFacts, ServerFiles, Session,
};

/// Where a source is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A server.
    Server(Arc<ServerLogin>),
    /// A server's disk.
    Files(Arc<ServerFiles>),
}

/// As much of what we have as a disk is compared with.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Everything but what is to be read again.
    enough: GtidSet,
    starting: GtidSet,
    numbered: bool,
}

/// What a source says about itself.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) facts: ServerFacts,
    /// Its binlogs, oldest first; none where it does not tell.
    binlogs: Vec<BinlogFile>,
    /// The first that it has behind all those whose files it cannot open, if there are such.
    behind_unreadable: Option<BinlogName>,
    /// What a disk says beyond that.
    files: Option<FilesHistory>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(login) => login.address.fmt(f),
            Self::Files(files) => write!(f, "files in {}", files.datadir().display()),
        }
    }
}

impl Known {
    /// Of a timeline's end; without a timeline nothing is known.
    pub(super) fn of(tip: Option<&Tip>) -> Self {
        let Some(tip) = tip else {
            return Self { enough: GtidSet::new(), starting: GtidSet::new(), numbered: true };
        };
        let again = tip.tail.first().map(|piece| piece.gtids_added.clone()).unwrap_or_default();
        Self { enough: tip.captured.subtract(&again), starting: tip.starting.clone(), numbered: !tip.anonymous }
    }
}

impl Place {
    /// What the source says about itself, if it is fit.
    pub(super) async fn ask(&self, known: Known, allow_positions: bool) -> Result<Answer, CaptureError> {
        match self {
            Self::Server(login) => ask_server(login, allow_positions).await,
            Self::Files(files) => {
                let files = Arc::clone(files);
                let read = spawn_blocking(move || ask_files(&files, &known, allow_positions));
                read.await.map_err(|_| CaptureError::Task("reading the files"))?
            }
        }
    }

    /// Asks for what is to be sent.
    pub(super) async fn open(
        &self,
        identity: &ReplicaIdentity,
        answer: &Answer,
        start: &Start,
        ack: AckPolicy,
    ) -> Result<(Stream, Acks), CaptureError> {
        match self {
            Self::Server(login) => {
                let semi_sync = if ack == AckPolicy::Off { SemiSync::Off } else { SemiSync::Requested };
                let mut stream = open_server(login, identity, &answer.facts, start, semi_sync).await?;
                let acks = Acks::new(ack, stream.take_acknowledger());
                Ok((Stream::Replication(Box::new(stream)), acks))
            }
            Self::Files(files) => {
                let stream = Box::new(answer.read(files, start)?);
                Ok((Stream::Files { stream, follow: true }, Acks::new(AckPolicy::Off, None)))
            }
        }
    }
}

/// What a server's files say, if they are fit. Blocking.
pub(super) fn ask_files(files: &ServerFiles, known: &Known, allow_positions: bool) -> Result<Answer, CaptureError> {
    let history = files.history(&known.enough, &known.starting, known.numbered)?;
    check_settings(&history.facts, allow_positions)?;
    Ok(Answer {
        facts: history.facts.clone(),
        binlogs: history.binlogs.clone(),
        behind_unreadable: None,
        files: Some(history),
    })
}

impl Answer {
    /// Decides how capture from this source goes on.
    ///
    /// # Errors
    /// When it does not continue the archive, or is too damaged to tell.
    pub(super) fn decide(&self, tip: &Tip) -> Result<Start, CaptureError> {
        let decided = match (self.facts.gtid_mode, self.binlogs.first()) {
            (GtidMode::On, _) | (_, None) => decide(tip, &self.facts, &self.binlogs),
            (_, Some(first)) => decide_by_position(tip, &self.facts, first, &self.binlogs),
        };
        let mut start = decided.map_err(|why| match self.files.as_ref().and_then(FilesHistory::damage) {
            // What seems to be missing may lie behind the damage.
            Some(damage) if matches!(why, Discontinuity::Forked { .. }) => CaptureError::from(damage),
            Some(_) | None => why.into(),
        })?;
        // Files are read from the start of a binlog on; what we have of it is passed over.
        if let (Some(_), Request::Position(position)) = (&self.files, &mut start.request) {
            position.offset = FIRST_EVENT_OFFSET;
        }
        Ok(start)
    }

    /// What can still be asked for when the source could not read what it was asked for: what it has behind that says itself
    /// what came before it.
    pub(super) fn pass_unreadable(&self, tip: &Tip, start: Start) -> Start {
        match (start.request, &self.behind_unreadable) {
            // The old place may be inside an event now; the start of a binlog never is.
            (Request::Position(BinlogPosition { binlog, .. }), _) => {
                let request = Request::Position(BinlogPosition { binlog, offset: FIRST_EVENT_OFFSET });
                Start { request, ..start }
            }
            (Request::Gtids { .. }, Some(behind)) => {
                let request = Request::Gtids { have: tip.captured.clone(), from: Some(behind.clone()) };
                Start { request, compare: None, ..start }
            }
            (request @ Request::Gtids { .. }, None) => Start { request, ..start },
        }
    }

    /// The binlogs that the source has closed: it will have them until it purges them.
    pub(super) fn closed_binlogs(&self) -> BTreeSet<BinlogName> {
        match (&self.files, self.binlogs.split_last()) {
            (None, Some((_, closed))) => closed.iter().map(|file| file.name.clone()).collect(),
            (Some(_), _) | (None, None) => BTreeSet::new(),
        }
    }

    /// The files from there on.
    pub(super) fn read(&self, files: &Arc<ServerFiles>, start: &Start) -> Result<FileStream, CaptureError> {
        let history = self.files.as_ref().ok_or(CaptureError::Task("looking at the files"))?;
        let (first, have) = match &start.request {
            Request::Gtids { have, from: Some(from) } => (Some(from), have.clone()),
            Request::Gtids { have, from: None } => (history.binlog_after(have), have.clone()),
            Request::Position(position) => (Some(&position.binlog), GtidSet::new()),
        };
        let listed = |name: &&highwater_binlog::BinlogName| self.binlogs.iter().any(|file| file.name == **name);
        match (first.filter(listed), first, &start.compare) {
            (Some(first), _, _) => Ok(FileStream::new(Arc::clone(files), first.clone(), have, history.end.clone())),
            (None, Some(first), compare) => {
                let offset = compare.as_ref().map_or(0, |piece| piece.end);
                Err(Discontinuity::BinlogGone { binlog: first.clone(), offset }.into())
            }
            (None, None, _) => Err(Discontinuity::Gap { missing: self.facts.gtid_purged.subtract(&have) }.into()),
        }
    }
}

/// What a server says about itself, if it is fit, and which binlogs it has.
async fn ask_server(login: &ServerLogin, allow_positions: bool) -> Result<Answer, CaptureError> {
    let mut session = Session::connect(login).await?;
    let facts = session.facts().clone();
    check_settings(&facts, allow_positions)?;
    let mut binlogs = match session.binlog_files().await {
        // With GTIDs they are not needed.
        Err(ServerError::MissingPrivilege { .. }) if facts.gtid_mode == GtidMode::On => Vec::new(),
        binlogs => binlogs?,
    };
    // It lists one whose file it cannot open, too, without a size.
    let unreadable = binlogs.iter().rposition(|file| file.size == 0);
    let behind_unreadable = unreadable.and_then(|last| binlogs.get(last + 1)).map(|file| file.name.clone());
    binlogs.retain(|file| file.size > 0);
    session.close().await;
    for warning in warnings(&facts) {
        tracing::warn!(source = %login.address, "{warning}");
    }
    Ok(Answer { facts, binlogs, behind_unreadable, files: None })
}

async fn open_server(
    login: &ServerLogin,
    identity: &ReplicaIdentity,
    facts: &ServerFacts,
    start: &Start,
    semi_sync: SemiSync,
) -> Result<BinlogStream, CaptureError> {
    let mut client = ReplicationClient::connect(login).await?;
    let server = client.server_uuid().await?;
    if server != facts.uuid {
        // One name, several servers: the decision was made about another one.
        let source = std::io::Error::other(format!("answered by server {} and then by {server}", facts.uuid));
        return Err(ServerError::Lost { address: login.address.to_string(), source }.into());
    }
    Ok(match &start.request {
        Request::Gtids { have, from } => client.dump_gtid(identity, have, from.as_ref(), semi_sync).await?,
        Request::Position(position) => client.dump_position(identity, position, semi_sync).await?,
    })
}
