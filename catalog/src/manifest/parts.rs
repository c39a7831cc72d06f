//! What manifests of several kinds have in common.

use highwater_binlog::{GtidSet, ParseError};
use serde::{Deserialize, Serialize};

use super::FORMAT_VERSION;
use crate::check::RecordError;
use crate::digest::Blake3Digest;
use crate::record::{ObjectFacts, Sealing};
use crate::repository::RepositoryId;

/// Enough of any manifest of any version to say what it is.
#[derive(Deserialize)]
pub(super) struct Version {
    pub(super) format: u32,
    pub(super) kind: String,
}

/// The first fields of every manifest.
pub(super) struct Preamble {
    pub(super) format: u32,
    pub(super) kind: String,
    pub(super) repository: String,
    pub(super) software: String,
}

impl Preamble {
    pub(super) fn new(kind: &str, repository: &RepositoryId) -> Self {
        Self {
            format: FORMAT_VERSION,
            kind: kind.to_owned(),
            repository: repository.to_string(),
            software: concat!("highwater ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    pub(super) fn repository(&self) -> Result<RepositoryId, RecordError> {
        self.repository.parse().map_err(|e| RecordError::parse("repository", &e))
    }
}

/// An object's name, sizes and digests.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectV1 {
    key: String,
    sealing: SealingV1,
    plain_size: u64,
    plain_blake3: String,
    stored_size: u64,
    stored_blake3: String,
}

#[derive(Serialize, Deserialize)]
enum SealingV1 {
    #[serde(rename = "zstd")]
    Zstd,
    #[serde(rename = "zstd+age")]
    ZstdAge,
}

impl ObjectV1 {
    pub(super) fn new(key: String, facts: &ObjectFacts) -> Self {
        Self {
            key,
            sealing: match facts.sealing {
                Sealing::Zstd => SealingV1::Zstd,
                Sealing::ZstdAge => SealingV1::ZstdAge,
            },
            plain_size: facts.plain_size,
            plain_blake3: facts.plain_blake3.to_string(),
            stored_size: facts.stored_size,
            stored_blake3: facts.stored_blake3.to_string(),
        }
    }

    /// The facts, and the name to compare with the one that the record calls for.
    pub(super) fn read(self) -> Result<(String, ObjectFacts), RecordError> {
        let facts = ObjectFacts {
            plain_size: self.plain_size,
            plain_blake3: digest("object.plain_blake3", &self.plain_blake3)?,
            stored_size: self.stored_size,
            stored_blake3: digest("object.stored_blake3", &self.stored_blake3)?,
            sealing: match self.sealing {
                SealingV1::Zstd => Sealing::Zstd,
                SealingV1::ZstdAge => Sealing::ZstdAge,
            },
        };
        Ok((self.key, facts))
    }
}

/// The name in a manifest must be the one that its other fields make.
pub(super) fn same_key(field: &'static str, found: &str, expected: &str) -> Result<(), RecordError> {
    if found == expected {
        return Ok(());
    }
    let found: String = found.chars().take(200).collect();
    Err(RecordError::new(field, format!("{found:?} instead of {expected}")))
}

pub(super) fn digest(field: &'static str, text: &str) -> Result<Blake3Digest, RecordError> {
    parse(field, text)
}

/// Reads text that must be in the form we print.
pub(super) fn parse<T>(field: &'static str, text: &str) -> Result<T, RecordError>
where
    T: std::str::FromStr<Err = ParseError> + ToString,
{
    let value: T = text.parse().map_err(|e| RecordError::parse(field, &e))?;
    if value.to_string() != text {
        return Err(RecordError::parse(field, &ParseError::new("canonical form", text)));
    }
    Ok(value)
}

/// Reads a GTID set in the one form in which we write it.
pub(super) fn gtids(field: &'static str, text: &str) -> Result<GtidSet, RecordError> {
    // Adding intervals in any other order than ascending takes quadratic time, which a hostile manifest could ask for.
    if !ascending(text) {
        return Err(RecordError::parse(field, &ParseError::new("sorted GTID set", text)));
    }
    parse(field, text)
}

/// Whether servers, and the numbers of each of their lists, only grow.
fn ascending(text: &str) -> bool {
    let mut server_before = "";
    text.is_empty()
        || text.split(',').all(|part| {
            let mut pieces = part.split(':');
            let server = pieces.next().unwrap_or_default();
            let grows = server_before < server;
            server_before = server;
            let mut tag_before = "";
            let mut number_before = 0;
            grows
                && pieces.all(|piece| {
                    if !piece.starts_with(|c: char| c.is_ascii_digit()) {
                        let grows = tag_before < piece;
                        (tag_before, number_before) = (piece, 0);
                        return grows;
                    }
                    let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
                    let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { return false };
                    let grows = number_before < first && first <= last;
                    number_before = last;
                    grows
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "11111111-2222-3333-4444-555555555555";
    const B: &str = "21111111-2222-3333-4444-555555555555";

    #[test]
    fn canonical_sets_are_read() {
        for text in [
            String::new(),
            format!("{A}:1"),
            format!("{A}:1-5:7"),
            format!("{A}:1-5:7:a:1-9:b:2,{B}:3"),
            format!("{A}:a:1-9,{B}:1-2"),
        ] {
            assert_eq!(gtids("x", &text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn sets_in_any_other_form_are_refused() {
        for text in [
            A.to_owned(),
            format!("{A}:"),
            format!("{A}:5-1"),
            format!("{A}:0-1"),
            format!("{A}:3:1"),
            format!("{A}:1-2:3"),
            format!("{A}:1-1"),
            format!("{A}:01"),
            format!(" {A}:1"),
            format!("{A}:1,"),
            format!("{B}:1,{A}:1"),
            format!("{A}:1,{A}:3"),
            format!("{A}:b:1:a:1"),
            format!("{A}:a"),
            format!("{A}:1-9223372036854775807"),
            A.replace('1', "A") + ":1",
        ] {
            assert!(gtids("x", &text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_descending_set_of_many_intervals_is_refused_quickly() {
        let mut text = A.to_owned();
        for number in (1..400_000u64).rev() {
            text.push_str(&format!(":{}", number * 2));
        }
        assert!(gtids("x", &text).is_err());
    }
}
