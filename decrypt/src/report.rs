//! What was learned about one file, as text and as JSON.

use std::fmt;
use std::path::Path;

use highwater_binlog::{ChecksumAlgorithm, ENCRYPTION_HEADER_LEN};
use serde::Serialize;

use crate::binlog_file::{BinlogFile, PlainStream};
use crate::decode::{Ending, Extent};
use crate::failure::Failure;

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
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_found_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    /// Plaintext bytes up to the end of the last whole event.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_bytes: Option<u64>,
    /// Bytes of an event that is not all there.
    #[serde(skip_serializing_if = "Option::is_none")]
    torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure>,
}

impl FileReport {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.display().to_string(), ..Self::default() }
    }

    /// Adds what the file shows without a key.
    pub(crate) fn add_file(&mut self, file: &BinlogFile) {
        self.file_bytes = Some(file.bytes());
        self.encrypted = Some(file.header().is_some());
        self.key_id = file.header().map(|header| header.key_id().to_string());
    }

    /// Adds what its first event shows.
    pub(crate) fn add_stream(&mut self, stream: &PlainStream) {
        let description = &stream.opening.description;
        self.key_found_in = stream.key_place.as_ref().map(|place| place.display().to_string());
        self.server_version = Some(description.server_version.clone());
        self.checksum = Some(match description.checksum_algorithm {
            ChecksumAlgorithm::None => "none",
            ChecksumAlgorithm::Crc32 => "crc32",
        });
        self.in_use = Some(stream.opening.in_use);
    }

    /// Adds what reading all of it showed.
    pub(crate) fn add_extent(&mut self, extent: &Extent) {
        self.events = Some(extent.events);
        self.stream_bytes = Some(extent.end);
        self.torn_bytes = match extent.ending {
            Ending::Torn { bytes } => Some(bytes),
            Ending::Whole | Ending::Damaged { .. } => None,
        };
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
        let mut text =
            format!("{}: {} events, {} bytes", self.file, self.events.unwrap_or(0), self.stream_bytes.unwrap_or(0));
        text.push_str(match self.checksum {
            Some("none") => ", its server wrote no checksums",
            _ if self.error.is_none() => ", every checksum right",
            _ => "",
        });
        if let Some(output) = &self.output {
            text.push_str(&format!(", written to {output}"));
        }
        text
    }
}

/// The block that `--inspect` prints.
impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.file)?;
        let mut line = |name: &str, value: &str| writeln!(f, "  {name:<15} {value}");
        match self.encrypted {
            Some(true) => line("encryption", "MySQL, header version 1")?,
            Some(false) => line("encryption", "none")?,
            None => {}
        }
        if let Some(key_id) = &self.key_id {
            line("key", key_id)?;
            line("key found in", self.key_found_in.as_deref().unwrap_or("-"))?;
        }
        if let Some(version) = &self.server_version {
            line("server version", version)?;
        }
        if let Some(checksum) = self.checksum {
            line("checksums", checksum)?;
        }
        match self.in_use {
            Some(true) => line("closed", "no: its server is running, or was killed")?,
            Some(false) => line("closed", "yes")?,
            None => {}
        }
        match (self.file_bytes, self.encrypted) {
            (Some(bytes), Some(true)) => {
                let stream = bytes.saturating_sub(ENCRYPTION_HEADER_LEN as u64);
                line("size", &format!("{bytes} bytes: {ENCRYPTION_HEADER_LEN} of header, {stream} of stream"))
            }
            (Some(bytes), _) => line("size", &format!("{bytes} bytes")),
            (None, _) => Ok(()),
        }
    }
}
