//! What was learned about one file, as text and as JSON.

use std::fmt;
use std::path::Path;

use highwater_binlog::{ChecksumAlgorithm, ENCRYPTION_HEADER_LEN, EventScheme};
use serde::Serialize;

use crate::binlog_file::{BinlogFile, Encryption, Unlocked};
use crate::decode::{Ending, Extent};
use crate::failure::Failure;
use crate::input::Input;
use crate::sequence::Followed;
use highwater_binlog::Micros;

/// What was learned about one file; what was not is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct FileReport {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// The vector under which the header carries the file's password, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_iv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_found_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<u32>,
    /// When the server began the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transactions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_gtids: Option<String>,
    /// What this file adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    gtids: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_binlog: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<bool>,
    /// Transactions broken off and begun again.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_off: Option<u64>,
    /// The binlog that it was found to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    follows: Option<String>,
    /// Plaintext offset after the last whole event.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_bytes: Option<u64>,
    /// Plaintext offset after the last whole transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    whole_bytes: Option<u64>,
    /// Bytes of an event that is not all there.
    #[serde(skip_serializing_if = "Option::is_none")]
    torn_bytes: Option<u64>,
    /// The transaction that is not all there.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure>,
}

impl FileReport {
    pub(crate) fn new(input: &Input) -> Self {
        Self { file: input.to_string(), ..Self::default() }
    }

    /// Adds what the file shows without a key.
    pub(crate) fn add_file(&mut self, file: &BinlogFile) {
        self.file_bytes = file.bytes();
        let Some(header) = file.header() else { return };
        self.encrypted = Some(true);
        self.encryption = Some("mysql");
        self.key_id = Some(header.key_id().to_string());
        self.password_iv = Some(header.wrapped().iv.iter().map(|byte| format!("{byte:02x}")).collect());
    }

    /// Adds what its first event shows.
    pub(crate) fn add_opening(&mut self, unlocked: &Unlocked) {
        let opening = &unlocked.opening;
        self.encrypted = Some(unlocked.encryption != Encryption::None);
        self.encryption = Some(match unlocked.encryption {
            Encryption::None => "none",
            Encryption::MySql => "mysql",
            Encryption::Events(EventScheme::MariaDbCbc) => "mariadb-cbc",
            Encryption::Events(EventScheme::MariaDbCtr) => "mariadb-ctr",
            Encryption::Events(EventScheme::PerconaCbc) => "percona-cbc",
            Encryption::NoEvents => "events",
        });
        self.key_found_in = unlocked.key_place.clone();
        self.kind = Some(if opening.relay_log { "relay log" } else { "binlog" });
        self.server_version = Some(opening.description.server_version.clone());
        self.server_id = Some(opening.server_id);
        self.begun = Some(Micros(u64::from(opening.timestamp) * 1_000_000).to_string());
        self.checksum = Some(match opening.description.checksum_algorithm {
            ChecksumAlgorithm::None => "none",
            ChecksumAlgorithm::Crc32 => "crc32",
        });
        // The flag is never set in a relay log.
        self.in_use = (!opening.relay_log).then_some(opening.in_use);
    }

    /// Adds what reading it showed.
    pub(crate) fn add_extent(&mut self, extent: &Extent) {
        let facts = &extent.facts;
        self.events = Some(facts.events);
        self.transactions = facts.transactions_followed().then_some(facts.transactions);
        self.previous_gtids = facts.previous_gtids.as_ref().map(|set| set.to_string().replace('\n', ""));
        self.gtids = match facts.mariadb_gtids() {
            Some(gtids) => Some(gtids.to_string()),
            None => Some(facts.gtids.to_string()).filter(|text| !text.is_empty()),
        };
        self.first_commit = facts.commits.map(|(first, _)| Micros(first).to_string());
        self.last_commit = facts.commits.map(|(_, last)| Micros(last).to_string());
        self.next_binlog = facts.next_binlog.clone();
        self.stopped = facts.stopped.then_some(true);
        self.broken_off = Some(facts.unfinished).filter(|count| *count > 0);
        self.stream_bytes = Some(extent.end);
        self.whole_bytes = Some(extent.kept);
        self.open_transaction = extent.open.as_ref().map(|open| open.gtid.clone());
        self.torn_bytes = match extent.ending {
            Ending::Torn { bytes } => Some(bytes),
            Ending::Whole | Ending::Wanted | Ending::Unreadable { .. } | Ending::Damaged { .. } => None,
        };
    }

    /// Adds which binlog it follows.
    pub(crate) fn add_followed(&mut self, followed: &Followed) {
        self.follows = followed.failure.is_none().then(|| followed.name.clone());
    }

    /// Adds where the plaintext is.
    pub(crate) fn add_output(&mut self, path: &Path) {
        self.output = Some(path.display().to_string());
    }

    /// One line of JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// One line about what was read and written.
    pub(crate) fn summary(&self) -> String {
        let number = |count: Option<u64>| count.unwrap_or(0);
        let mut text = format!("{}: {} events", self.file, number(self.events));
        if let Some(transactions) = self.transactions {
            text.push_str(&format!(", {transactions} transactions"));
        }
        text.push_str(&format!(", {} bytes", number(self.stream_bytes)));
        text.push_str(match self.checksum {
            Some("none") => ", its server wrote no checksums",
            _ if self.error.is_none() => ", every checksum right",
            _ => "",
        });
        if let Some(follows) = &self.follows {
            text.push_str(&format!(", follows {follows}"));
        }
        if let Some(output) = &self.output {
            text.push_str(&format!(", written to {output}"));
        }
        text
    }

    fn encryption_text(&self) -> Option<&'static str> {
        Some(match self.encryption? {
            "none" => "none",
            "mysql" => "MySQL, header version 1",
            "mariadb-cbc" => "MariaDB, AES-CBC",
            "mariadb-ctr" => "MariaDB, AES-CTR",
            "percona-cbc" => "Percona Server before 8.0.14",
            _ => "begun, and no event after it",
        })
    }

    fn closed_text(&self) -> Option<String> {
        Some(match (self.in_use, &self.next_binlog, self.stopped) {
            (_, Some(next), _) => format!("yes: {next} follows"),
            (_, None, Some(true)) => "yes: its server stopped".to_owned(),
            (Some(true), None, _) => "no: its server is running, or was killed".to_owned(),
            (Some(false), None, _) => "yes".to_owned(),
            // Nothing is known of a file whose first event was not read.
            (None, None, _) => self.kind.map(|_| "not known: a relay log does not say".to_owned())?,
        })
    }

    fn size_text(&self) -> Option<String> {
        let bytes = self.file_bytes?;
        if self.key_id.is_none() {
            return Some(format!("{bytes} bytes"));
        }
        let stream = bytes.saturating_sub(ENCRYPTION_HEADER_LEN as u64);
        Some(format!("{bytes} bytes: {ENCRYPTION_HEADER_LEN} of header, {stream} of stream"))
    }

    fn end_text(&self) -> Option<String> {
        let end = self.stream_bytes?;
        Some(match (self.torn_bytes, &self.open_transaction, self.whole_bytes) {
            (None, None, _) => format!("{end}"),
            (torn, open, whole) => {
                let torn = torn.map(|bytes| format!(", {bytes} bytes of another event")).unwrap_or_default();
                let open = open.as_ref().map(|gtid| format!(", inside of {gtid}")).unwrap_or_default();
                format!("{end}{torn}{open}; whole up to {}", whole.unwrap_or(0))
            }
        })
    }
}

/// The block that `--inspect` prints.
impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.file)?;
        let mut line = |name: &str, value: Option<&str>| match value {
            Some(value) => writeln!(f, "  {name:<15} {value}"),
            None => Ok(()),
        };
        let number = |count: Option<u64>| count.map(|count| count.to_string());
        line("kind", self.kind)?;
        line("encryption", self.encryption_text())?;
        line("key", self.key_id.as_deref())?;
        line("password's IV", self.password_iv.as_deref())?;
        if self.encrypted == Some(true) {
            line("key found in", Some(self.key_found_in.as_deref().unwrap_or("-")))?;
        }
        line("server version", self.server_version.as_deref())?;
        line("server id", self.server_id.map(|id| id.to_string()).as_deref())?;
        line("begun", self.begun.as_deref())?;
        line("checksums", self.checksum)?;
        line("closed", self.closed_text().as_deref())?;
        line("size", self.size_text().as_deref())?;
        line("ends at", self.end_text().as_deref())?;
        line("events", number(self.events).as_deref())?;
        line("transactions", number(self.transactions).as_deref())?;
        line("broken off", number(self.broken_off).as_deref())?;
        line("first commit", self.first_commit.as_deref())?;
        line("last commit", self.last_commit.as_deref())?;
        line("previous GTIDs", self.previous_gtids.as_deref().map(|text| if text.is_empty() { "none" } else { text }))?;
        line("GTIDs", self.gtids.as_deref())?;
        line("follows", self.follows.as_deref())?;
        line("damage", self.error.as_ref().map(|failure| failure.error.as_str()))
    }
}
