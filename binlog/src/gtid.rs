//! GTIDs and sets of them, tags included (MySQL manual, "GTID Format and Storage").

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

mod wire;

use crate::error::ParseError;
use crate::position::ServerUuid;

/// The optional tag of a GTID (MySQL 8.3 and newer): up to 32 of `[a-z0-9_]`, not starting with a digit. Empty: no tag.
///
/// No tag is no string, so that comparing origins, as every transaction does, compares none: glibc's `memcmp` with AVX-512
/// reads empty strings with a masked load, whose address, where nothing is mapped, costs the processor a microsecond.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Tag(Option<Box<str>>);

impl Tag {
    /// The tag as text; empty for none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is no tag.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for Tag {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let lower = text.trim().to_ascii_lowercase();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if lower.is_empty()
            || lower.len() > 32
            || lower.starts_with(|c: char| c.is_ascii_digit())
            || !lower.chars().all(allowed)
        {
            return Err(ParseError::new("GTID tag", text));
        }
        Ok(Self(Some(lower.into_boxed_str())))
    }
}

/// Who numbered a transaction: a server UUID and, if any, a tag. Each has its own numbers from 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GtidOrigin {
    /// The server.
    pub server: ServerUuid,
    /// The tag, empty for none.
    pub tag: Tag,
}

impl fmt::Display for GtidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.server)?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag.as_str())?;
        }
        Ok(())
    }
}

/// One transaction's global identifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gtid {
    /// Who numbered it.
    pub origin: GtidOrigin,
    /// Its number, 1 to 2^63 - 2.
    pub number: NonZeroU64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.number)
    }
}

impl FromStr for Gtid {
    type Err = ParseError;

    /// Reads `UUID:NUMBER` or `UUID:TAG:NUMBER`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("GTID", text);
        let set: GtidSet = text.parse().map_err(|_| error())?;
        let mut intervals = set.intervals();
        match (intervals.next(), intervals.next()) {
            (Some((origin, interval)), None) if interval.end - interval.start == 1 => {
                let number = NonZeroU64::new(interval.start).ok_or_else(error)?;
                Ok(Self { origin: origin.clone(), number })
            }
            _ => Err(error()),
        }
    }
}

/// Transaction numbers `start..end`, the end not included. Never empty; `start` is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interval {
    /// First number in the interval.
    pub start: u64,
    /// First number after it.
    pub end: u64,
}

/// The largest number a GTID can have (`GNO_END` - 1 in `sql/rpl_gtid.h`).
pub(crate) const NUMBER_MAX: u64 = (1 << 63) - 2;

/// A set of GTIDs: for each origin, sorted intervals that neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GtidSet {
    origins: BTreeMap<GtidOrigin, Vec<Interval>>,
}

impl GtidSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { origins: BTreeMap::new() }
    }

    /// Whether it has no GTID.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// How many GTIDs it has; at most `u64::MAX`.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.intervals().fold(0, |sum, (_, i)| sum.saturating_add(i.end - i.start))
    }

    /// All intervals, by origin and number.
    pub fn intervals(&self) -> impl Iterator<Item = (&GtidOrigin, Interval)> {
        self.origins.iter().flat_map(|(origin, list)| list.iter().map(move |i| (origin, *i)))
    }

    /// Whether `gtid` is in the set.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        let number = gtid.number.get();
        self.origins.get(&gtid.origin).is_some_and(|list| {
            let after = list.partition_point(|i| i.start <= number);
            after.checked_sub(1).and_then(|at| list.get(at)).is_some_and(|i| number < i.end)
        })
    }

    /// Adds one GTID.
    pub fn insert(&mut self, gtid: &Gtid) {
        let start = gtid.number.get();
        self.insert_interval(&gtid.origin, Interval { start, end: start.saturating_add(1) });
    }

    /// Adds an interval of one origin; joins what it overlaps or touches. Numbers that no GTID can have are left out.
    pub fn insert_interval(&mut self, origin: &GtidOrigin, added: Interval) {
        let added = Interval { start: added.start.max(1), end: added.end.min(NUMBER_MAX + 1) };
        if added.start >= added.end {
            return;
        }
        let list = self.origins.entry(origin.clone()).or_default();
        let from = list.partition_point(|i| i.end < added.start);
        let to = list.partition_point(|i| i.start <= added.end);
        let mut joined = added;
        for i in list.iter().take(to).skip(from) {
            joined.start = joined.start.min(i.start);
            joined.end = joined.end.max(i.end);
        }
        list.splice(from..to, [joined]);
    }

    /// Every GTID of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (origin, added) in &other.origins {
            let list = all.origins.entry(origin.clone()).or_default();
            list.extend_from_slice(added);
            join(list);
        }
        all
    }

    /// Every GTID of this set that `other` lacks.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut rest = Self::new();
        for (origin, list) in &self.origins {
            let removed = other.origins.get(origin).map_or(&[][..], Vec::as_slice);
            let mut next = removed.iter().peekable();
            for interval in list {
                let mut start = interval.start;
                while let Some(cut) = next.peek().copied().filter(|cut| cut.start < interval.end) {
                    rest.insert_interval(origin, Interval { start, end: cut.start.min(interval.end) });
                    start = start.max(cut.end);
                    if cut.end > interval.end {
                        break;
                    }
                    next.next();
                }
                rest.insert_interval(origin, Interval { start, end: interval.end });
            }
        }
        rest
    }

    /// Every GTID that both sets have.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        self.subtract(&self.subtract(other))
    }

    /// Whether `other` has every GTID of this set.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.subtract(other).is_empty()
    }
}

/// Sorts intervals and joins what overlaps or touches: once for many, where `insert_interval` would move them each time.
fn join(list: &mut Vec<Interval>) {
    list.sort_unstable();
    list.dedup_by(|next, joined| {
        let touches = next.start <= joined.end;
        if touches {
            joined.end = joined.end.max(next.end);
        }
        touches
    });
}

impl fmt::Display for GtidSet {
    /// MySQL's own form, on one line: `uuid:1-5:7,uuid:tag:1-3`. The empty set is the empty text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous: Option<ServerUuid> = None;
        for (origin, list) in &self.origins {
            if previous != Some(origin.server) {
                if previous.is_some() {
                    f.write_str(",")?;
                }
                write!(f, "{}", origin.server)?;
                previous = Some(origin.server);
            }
            if !origin.tag.is_empty() {
                write!(f, ":{}", origin.tag.as_str())?;
            }
            for interval in list {
                match interval.end - interval.start {
                    1 => write!(f, ":{}", interval.start)?,
                    _ => write!(f, ":{}-{}", interval.start, interval.end - 1)?,
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = ParseError;

    /// Reads what the server prints and accepts: spaces and newlines, either case, tags, empty parts.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("GTID set", text);
        let mut set = Self::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let mut pieces = part.split(':').map(str::trim);
            let server: ServerUuid = pieces.next().ok_or_else(error)?.parse().map_err(|_| error())?;
            let mut origin = GtidOrigin { server, tag: Tag::default() };
            for piece in pieces {
                if piece.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
                    let start: u64 = first.trim().parse().map_err(|_| error())?;
                    let last: u64 = last.trim().parse().map_err(|_| error())?;
                    if start == 0 || last > NUMBER_MAX {
                        return Err(error());
                    }
                    // The server takes an interval that ends before it starts, and adds nothing.
                    if start <= last {
                        set.origins.entry(origin.clone()).or_default().push(Interval { start, end: last + 1 });
                    }
                } else {
                    origin.tag = piece.parse().map_err(|_| error())?;
                }
            }
        }
        set.origins.values_mut().for_each(join);
        Ok(set)
    }
}
