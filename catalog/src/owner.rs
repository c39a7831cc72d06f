//! Which agent writes an archive.

use std::fmt;

use highwater_binlog::Micros;

/// Counts the agents that took an archive over, from 1. The newest one writes it. Printed with 8 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// A running agent, for people and for itself to recognise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOwner {
    /// Name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it was started, by its clock.
    pub started: Micros,
}

impl fmt::Display for AgentOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}, started {}", self.pid, self.host, self.started)
    }
}

/// An agent's taking over of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// Its number.
    pub epoch: Epoch,
    /// Who it was.
    pub owner: AgentOwner,
}
