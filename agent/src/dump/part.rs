//! The files of statements that every dump has.

use highwater_catalog::DumpFileKind;

/// A file of statements, in the order in which they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Accounts without grants.
    Users,
    /// Schemas and tables.
    Tables,
    /// One `LOAD DATA` for each file of rows; these are loaded here.
    Load,
    /// Functions and procedures.
    Routines,
    /// Views.
    Views,
    /// Triggers.
    Triggers,
    /// Events.
    Events,
    /// Grants and default roles.
    Grants,
}

impl Part {
    /// In order.
    pub(super) const ALL: [Self; 8] = [
        Self::Users,
        Self::Tables,
        Self::Load,
        Self::Routines,
        Self::Views,
        Self::Triggers,
        Self::Events,
        Self::Grants,
    ];

    /// The file's name within the dump.
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Users => "accounts/users.sql",
            Self::Tables => "schema/tables.sql",
            Self::Load => "data/load.sql",
            Self::Routines => "schema/routines.sql",
            Self::Views => "schema/views.sql",
            Self::Triggers => "schema/triggers.sql",
            Self::Events => "schema/events.sql",
            Self::Grants => "accounts/grants.sql",
        }
    }

    /// The part that a file is.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.file_name() == name)
    }

    /// What the manifest calls it.
    pub(super) fn kind(self) -> DumpFileKind {
        match self {
            Self::Users | Self::Grants => DumpFileKind::Accounts,
            Self::Tables | Self::Load | Self::Routines | Self::Views | Self::Triggers | Self::Events => {
                DumpFileKind::Schema
            }
        }
    }

    /// What is being done with it, for progress.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Users => "accounts",
            Self::Tables => "tables",
            Self::Load => "rows",
            Self::Routines => "routines",
            Self::Views => "views",
            Self::Triggers => "triggers",
            Self::Events => "events",
            Self::Grants => "grants",
        }
    }
}
