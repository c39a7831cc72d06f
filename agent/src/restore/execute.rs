//! Doing what was planned, and leaving the target clean whatever happens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use highwater_binlog::{GtidSet, ServerUuid};
use tokio_util::sync::CancellationToken;

use super::channel::{self, Trouble};
use super::failure::RestoreFailure;
use super::mark::{Mark, Phase as MarkPhase};
use super::preflight::Start;
use super::prepare::Prepared;
use super::prove::ReplayFacts;
use super::scheduler_events::{EventStates, EventsReport, settle};
use super::serve::{BinlogServer, Replay, ReplicaAccount, ServeOptions};
use super::settings::Settings;
use super::target::{Target, quoted};
use super::{Phase, Progress, ProgressSink, RestoreOptions};
use crate::archive::Archive;
use crate::secret::Password;
use crate::server::{ServerAddress, ServerLogin};

/// How often the target is asked how far it is.
const POLL: Duration = Duration::from_millis(200);
/// How often it is asked what holds it up: each time some milliseconds of its time.
const TROUBLE_POLL: Duration = Duration::from_secs(1);
/// `MAX_PASSWORD_LENGTH` of SOURCE_PASSWORD is 32 characters: 128 bits in hexadecimal.
const PASSWORD_BYTES: usize = 16;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) events: EventsReport,
    pub(crate) in_doubt: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// One restore on its way.
pub(crate) struct Execution<'a> {
    pub(crate) options: &'a RestoreOptions,
    pub(crate) archive: &'a Archive,
    pub(crate) login: &'a ServerLogin,
    pub(crate) prepared: &'a Prepared,
    pub(crate) facts: &'a ReplayFacts,
    pub(crate) progress: &'a ProgressSink,
    pub(crate) stop: &'a CancellationToken,
}

impl Execution<'_> {
    /// Does everything, then cleans up. `target` is the control connection.
    pub(crate) async fn run(&self, target: &mut Target, start: Start) -> Result<Outcome, RestoreFailure> {
        let server_id = self.free_server_id(target);
        let mut settings = Settings::read(target, server_id).await?;
        if let Start::Resume(mark) = &start {
            settings = settings.with_originals_of(&mark.settings);
        }
        let result = self.steps(target, start, &settings).await;
        let errors = self.clean_up(target, &settings).await;
        if errors.is_empty() {
            return result;
        }
        let failure = result.err().map_or_else(|| "the restore is complete".to_owned(), |error| error.to_string());
        Err(RestoreFailure::SettingsLeft { failure, errors: errors.join("; "), by_hand: settings.by_hand() })
    }

    async fn steps(&self, target: &mut Target, start: Start, settings: &Settings) -> Result<Outcome, RestoreFailure> {
        let plan = &self.prepared.plan;
        let mut mark = match start {
            Start::Resume(mark) => Mark { settings: settings.clone(), ..mark },
            Start::Empty => Mark {
                phase: MarkPhase::Load,
                dump: plan.dump.id.to_string(),
                stop: plan.stop.gtids.to_string(),
                settings: settings.clone(),
                events: EventStates::default(),
            },
        };
        let mut side = Target::connect(self.login).await.map_err(RestoreFailure::Connect)?;
        mark.write(target).await?;
        settings.change(target).await?;
        let mut notes = Vec::new();
        if mark.phase == MarkPhase::Load {
            notes = self.load(&mut side).await?;
            let purged = quoted(&plan.dump.gtids.to_string());
            target.run(&format!("SET GLOBAL gtid_purged = {purged}"), "SET gtid_purged").await?;
            mark.events = EventStates::read(target).await?;
            mark.phase = MarkPhase::Replay;
            mark.write(target).await?;
        }
        let excluded = self.options.exclude_gtids.intersect(&plan.replay);
        exclude(&mut side, target, &excluded).await?;
        if !plan.replay.is_empty() {
            self.replay(target).await?;
        }
        let mut outcome = self.settle(target, mark.events).await?;
        outcome.notes.append(&mut notes);
        if !excluded.is_empty() {
            outcome.notes.push(format!("transactions left out: {excluded}"));
        }
        self.verify(target).await?;
        Mark::remove(target).await?;
        side.close().await;
        Ok(outcome)
    }

    /// Loads the dump over a connection of its own, which is given up when the restore is told to stop.
    async fn load(&self, side: &mut Target) -> Result<Vec<String>, RestoreFailure> {
        let interrupted = RestoreFailure::Interrupted { during: "loading the dump", resumable: false };
        tokio::select! {
            () = self.stop.cancelled() => Err(interrupted),
            loaded = super::load::load(side, self.archive, &self.prepared.plan.dump, self.progress) => loaded,
        }
    }

    /// Serves the segments to the target until it has everything.
    async fn replay(&self, target: &mut Target) -> Result<(), RestoreFailure> {
        let account = ReplicaAccount { user: "highwater".to_owned(), password: random_password() };
        let options = ServeOptions {
            listen: self.listen_address()?,
            account: account.clone(),
            server_id: random_server_id(|id| id != target.facts().server_id && !self.facts.server_ids.contains(&id)),
            server_uuid: ServerUuid::from_bytes(rand::random()),
            server_version: self.prepared.plan.dump.server_version.clone(),
        };
        let replay = Replay { source: self.prepared.replay.clone(), gtids: self.prepared.plan.replay.clone() };
        let server = BinlogServer::start(options, replay).await?;
        let result = self.replay_from(target, &server, &account).await;
        // The channel goes first: a receiver without a source would only fill the target's error log.
        let removed = channel::remove(target).await;
        server.stop().await;
        result?;
        Ok(removed?)
    }

    async fn replay_from(
        &self,
        target: &mut Target,
        server: &BinlogServer,
        account: &ReplicaAccount,
    ) -> Result<(), RestoreFailure> {
        channel::remove(target).await?;
        channel::create(target, server.address(), account).await?;
        channel::start(target).await?;
        let plan = &self.prepared.plan;
        let total = plan.replay.count();
        let mut watch = Watch::new(self.options.connect_timeout);
        loop {
            if self.stop.is_cancelled() {
                return Err(RestoreFailure::Interrupted { during: "replaying binlogs", resumable: true });
            }
            let state = server.state().borrow().clone();
            if let Some(failure) = state.failure {
                return Err(RestoreFailure::Serving(failure));
            }
            let executed = target.gtid_executed().await?;
            let done = executed.intersect(&plan.replay).count();
            (self.progress)(Progress { phase: Phase::Replay, done, total });
            if plan.stop.gtids.is_subset(&executed) {
                return Ok(());
            }
            watch.look(target, server.address(), state.streams, done).await?;
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Gives the scheduler's events their states, and looks for transactions in doubt.
    async fn settle(&self, target: &mut Target, mut states: EventStates) -> Result<Outcome, RestoreFailure> {
        self.facts.event_changes.iter().for_each(|change| states.apply(change));
        let events = settle(target, &states, self.options.keep_events_disabled).await?;
        let mut outcome = Outcome { events, ..Outcome::default() };
        match target.rows::<(i64, i64, i64, String)>("XA RECOVER CONVERT XID", "XA RECOVER").await {
            Ok(rows) => outcome.in_doubt = rows.into_iter().map(|(_, _, _, xid)| xid).collect(),
            Err(error) => outcome.notes.push(format!("transactions in doubt could not be listed: {error}")),
        }
        Ok(outcome)
    }

    /// The target has exactly the wanted transactions, and no channel.
    async fn verify(&self, target: &mut Target) -> Result<(), RestoreFailure> {
        let executed = target.gtid_executed().await?;
        let wanted = &self.prepared.plan.stop.gtids;
        if executed != *wanted {
            let (missing, extra) = (wanted.subtract(&executed), executed.subtract(wanted));
            return Err(RestoreFailure::NotExact { missing, extra });
        }
        if channel::exists(target).await? {
            return Err(RestoreFailure::Internal("the replication channel is still there".to_owned()));
        }
        Ok(())
    }

    /// Removes the channel and puts the settings back, over a new connection if the old one is lost.
    async fn clean_up(&self, target: &mut Target, settings: &Settings) -> Vec<String> {
        if target.run("DO 0", "look after the connection").await.is_err() {
            match Target::connect(self.login).await {
                Ok(mut new) => {
                    // Without it, only the target's own binlog would show what we put back; settings are not logged.
                    let _ = new.stop_logging().await;
                    *target = new;
                }
                Err(error) => return vec![error.to_string()],
            }
        }
        let mut errors = Vec::new();
        if let Err(error) = channel::remove(target).await {
            errors.push(error.to_string());
        }
        errors.extend(settings.put_back(target).await.iter().map(ToString::to_string));
        errors
    }

    /// A `server_id` that neither the target nor any replayed transaction has.
    fn free_server_id(&self, target: &Target) -> u32 {
        random_server_id(|id| id != target.facts().server_id && !self.facts.server_ids.contains(&id))
    }

    /// Where the target can reach us.
    fn listen_address(&self) -> Result<SocketAddr, RestoreFailure> {
        let listen_port = self.options.serve_port;
        if let Some(address) = self.options.serve_address {
            return Ok(SocketAddr::new(address, listen_port));
        }
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, listen_port));
        let ServerAddress::Tcp { host, port } = &self.login.address else { return Ok(loopback) };
        // Connecting a datagram socket sends nothing; it only asks the system which way packets would go.
        let local = UdpSocket::bind(("::", 0))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
            .and_then(|socket| socket.connect((host.as_str(), *port)).map(|()| socket))
            .or_else(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                socket.connect((host.as_str(), *port)).map(|()| socket)
            })
            .and_then(|socket| socket.local_addr());
        let ip =
            local.map_err(|error| RestoreFailure::Internal(format!("local address towards {host}: {error}")))?.ip();
        let ip = match ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        };
        Ok(if ip.is_loopback() { loopback } else { SocketAddr::new(ip, listen_port) })
    }
}

/// Notices when the replay does not go on.
struct Watch {
    connect_timeout: Duration,
    begun: Instant,
    looked: Instant,
    /// How far it was, and since when.
    progress: (u64, Instant),
}

impl Watch {
    fn new(connect_timeout: Duration) -> Self {
        let now = Instant::now();
        Self { connect_timeout, begun: now, looked: now, progress: (0, now) }
    }

    async fn look(
        &mut self,
        target: &mut Target,
        address: SocketAddr,
        streams: u64,
        done: u64,
    ) -> Result<(), RestoreFailure> {
        let now = Instant::now();
        if done != self.progress.0 {
            self.progress = (done, now);
        }
        if now.duration_since(self.looked) < TROUBLE_POLL {
            return Ok(());
        }
        self.looked = now;
        let trouble = channel::trouble(target).await?;
        let unreached = streams == 0 && now.duration_since(self.begun) > self.connect_timeout;
        let not_reached = |message| {
            let seconds = self.connect_timeout.as_secs();
            Err(RestoreFailure::NotReached { address: address.to_string(), seconds, message })
        };
        match trouble {
            Some(Trouble::Applier { code, message, gtid }) => Err(RestoreFailure::Applier { code, message, gtid }),
            Some(Trouble::Receiver { message, code }) => {
                let idle = now.duration_since(self.progress.1) > self.connect_timeout;
                if unreached || idle { not_reached(Some(format!("{message} (error {code})"))) } else { Ok(()) }
            }
            None if unreached => not_reached(None),
            None => Ok(()),
        }
    }
}

/// Puts empty transactions in the place of those that are left out: the target then has their GTIDs and does not ask for
/// them. They are logged, or else the target would forget them.
async fn exclude(side: &mut Target, target: &mut Target, excluded: &GtidSet) -> Result<(), RestoreFailure> {
    let missing = excluded.subtract(&target.gtid_executed().await?);
    for (origin, interval) in missing.intervals() {
        for number in interval.start..interval.end {
            let gtid = quoted(&format!("{origin}:{number}"));
            let what = "leave a transaction out";
            side.run("SET SESSION sql_log_bin = 1", what).await?;
            side.run(&format!("SET SESSION gtid_next = {gtid}"), what).await?;
            side.run("BEGIN", what).await?;
            side.run("COMMIT", what).await?;
            side.run("SET SESSION gtid_next = 'AUTOMATIC'", what).await?;
        }
    }
    Ok(())
}

fn random_password() -> Password {
    let bytes: [u8; PASSWORD_BYTES] = rand::random();
    Password::new(hex::encode(bytes))
}

/// From the upper half: people number from 1.
fn random_server_id(free: impl Fn(u32) -> bool) -> u32 {
    loop {
        let id = rand::random_range(0x8000_0000..u32::MAX);
        if free(id) {
            return id;
        }
    }
}
