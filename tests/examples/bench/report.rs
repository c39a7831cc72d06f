//! What was measured: tables for people, JSON for programs.

use std::fmt;

use serde_json::{Value, json};

/// One number.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// What it says.
    pub(crate) name: String,
    /// The number.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What else there is to know about it: the single runs.
    pub(crate) note: String,
}

/// The numbers of one benchmark.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    name: &'static str,
    about: Vec<String>,
    figures: Vec<Figure>,
    commands: Vec<String>,
}

impl Section {
    /// Without numbers yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, about: Vec::new(), figures: Vec::new(), commands: Vec::new() }
    }

    /// Says how the numbers were made.
    pub(crate) fn about(&mut self, line: impl Into<String>) {
        self.about.push(line.into());
    }

    /// Adds a number.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str, note: impl Into<String>) {
        self.figures.push(Figure { name: name.into(), value, unit, note: note.into() });
    }

    /// Adds a command that made the numbers.
    pub(crate) fn command(&mut self, line: impl Into<String>) {
        self.commands.push(line.into());
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| json!({"name": figure.name, "value": figure.value, "unit": figure.unit, "note": figure.note}))
            .collect();
        json!({"about": self.about, "figures": figures, "commands": self.commands})
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.name)?;
        for line in &self.about {
            writeln!(f, "  {line}")?;
        }
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        for Figure { name, value, unit, note } in &self.figures {
            writeln!(f, "    {}", format!("{name:<width$}  {value:>10.2} {unit:<5} {note}").trim_end())?;
        }
        for command in &self.commands {
            writeln!(f, "  $ {command}")?;
        }
        Ok(())
    }
}

/// Everything that was measured in one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<Section>,
}

impl Report {
    /// Adds a benchmark.
    pub(crate) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// As JSON, by the names of the benchmarks.
    pub(crate) fn json(&self) -> Value {
        self.sections
            .iter()
            .map(|section| (section.name.to_owned(), section.json()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}
