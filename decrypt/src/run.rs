//! One file after the other.

use std::io::Write;

use crate::binlog_file::BinlogFile;
use crate::cli::{Job, Task};
use crate::decode::{Ending, Extent, Span, decode};
use crate::failure::{Exit, Failure, say};
use crate::input::Input;
use crate::keys::Keys;
use crate::output::{FileOutput, Nowhere, StdoutOutput, create_folder};
use crate::report::FileReport;
use crate::sequence::Sequences;

/// Does the job for every file, failed ones or not. The exit is that of the first file that failed.
///
/// # Errors
/// What keeps every file from being done: unusable keyrings, an output folder that cannot be made, a closed stdout.
pub(crate) fn run(job: &Job) -> Result<Exit, Failure> {
    let keys = Keys::collect(&job.places)?;
    for warning in keys.warnings() {
        say(&format!("warning: {warning}"));
    }
    if let Task::ToFolder(folder) = &job.task {
        create_folder(folder)?;
    }
    let mut sequences = Sequences::default();
    let mut exit = Exit::Done;
    for (index, input) in job.files.iter().enumerate() {
        let span = Span {
            from: job.span.from.filter(|_| index == 0),
            to: job.span.to.filter(|_| index + 1 == job.files.len()),
        };
        let mut report = FileReport::new(input);
        let result = process(input, job, &keys, span, &mut sequences, &mut report);
        if let Err(failure) = &result {
            report.error = Some(failure.clone());
        }
        tell(job, &report)?;
        if let Err(failure) = result {
            failure.print();
            if exit == Exit::Done {
                exit = failure.exit;
            }
        }
    }
    Ok(exit)
}

fn process(
    input: &Input,
    job: &Job,
    keys: &Keys,
    span: Span,
    sequences: &mut Sequences,
    report: &mut FileReport,
) -> Result<(), Failure> {
    let file = BinlogFile::open_with_any_header(input)?;
    report.add_file(&file);
    if matches!(job.task, Task::Inspect) && keys.is_empty() && file.header().is_some() {
        // Without keyrings only the header can be told; that is no failure.
        return Ok(());
    }
    let unlocked = file.unlock(keys)?;
    report.add_opening(&unlocked);
    let name = input.to_string();
    // A relay log does not say whether it was closed.
    let closed = (!unlocked.opening.relay_log).then_some(!unlocked.opening.in_use);
    let (extent, target) = match &job.task {
        Task::Inspect | Task::Verify => (decode(&name, unlocked, span, &mut Nowhere)?, None),
        Task::ToStdout => {
            let mut output = StdoutOutput::new();
            let extent = decode(&name, unlocked, span, &mut output)?;
            output.finish()?;
            (extent, None)
        }
        Task::ToFile(_) | Task::ToFolder(_) => {
            let path = job.task.target(input);
            let mut output = FileOutput::create(&path)?;
            let extent = decode(&name, unlocked, span, &mut output)?;
            let target = if lost(&extent, closed) { output.finish_partial()? } else { output.finish()? };
            (extent, Some(target))
        }
    };
    report.add_extent(&extent);
    if let Some(target) = &target {
        report.add_output(target);
    }
    let followed = sequences.compare(input, &extent.facts);
    if let Some(followed) = &followed {
        report.add_followed(followed);
    }
    judge(&name, closed, &extent, target.map(|target| target.display().to_string()))?;
    let broken = followed.and_then(|followed| followed.failure);
    match (&job.task, broken) {
        (Task::Inspect | Task::Verify, Some(failure)) => Err(failure),
        (_, Some(failure)) => {
            say(&format!("warning: {}", failure.error));
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

/// Whether the file had more than what was read of it. One that was not closed may end anywhere: what its server had not
/// written was never committed.
fn lost(extent: &Extent, closed: Option<bool>) -> bool {
    match extent.ending {
        Ending::Unreadable { .. } | Ending::Damaged { .. } => true,
        Ending::Torn { .. } => closed == Some(true),
        Ending::Whole => closed == Some(true) && extent.open.is_some(),
        Ending::Wanted => false,
    }
}

/// Whether a file that was read to its end, or as far as it could be, is a whole one.
fn judge(name: &str, closed: Option<bool>, extent: &Extent, target: Option<String>) -> Result<(), Failure> {
    let (end, kept) = (extent.end, extent.kept);
    let fate = match (closed, &target) {
        (Some(true), Some(target)) => format!(
            "its server closed the file, so it was cut later: look for a longer copy; the {kept} bytes of whole \
             transactions are in {target}"
        ),
        (Some(true), None) => format!(
            "its server closed the file, so it was cut later: look for a longer copy; the {kept} bytes before are whole"
        ),
        (Some(false), _) => {
            "its server was still writing it, or was killed: all whole transactions are there; a later \
                             copy may have more"
                .to_owned()
        }
        (None, _) => "a relay log does not say whether it was closed: its replica may have been writing it; all whole \
                      transactions are there"
            .to_owned(),
    };
    let inside =
        |open: &crate::facts::Open| format!(" inside of transaction {}, which begins at {}", open.gtid, open.start);
    match (&extent.ending, &extent.open) {
        (Ending::Unreadable { what } | Ending::Damaged { what }, _) => {
            let exit = if let Ending::Damaged { .. } = extent.ending { Exit::Damaged } else { Exit::Failed };
            Err(Failure::new(exit, format!("{name}: {what}")).hint(match target {
                Some(target) => format!("the {kept} bytes before it are whole and are in {target}"),
                None => format!("the {kept} bytes before it are whole; look for another copy of the file"),
            }))
        }
        (Ending::Torn { bytes }, open) => {
            let open = open.as_ref().map(|open| format!(",{}", inside(open))).unwrap_or_default();
            let text =
                format!("{name} ends inside of an event: {bytes} bytes after offset {end} are not a whole one{open}");
            Err(Failure::new(Exit::Damaged, text).hint(fate))
        }
        (Ending::Whole, Some(open)) => {
            Err(Failure::new(Exit::Damaged, format!("{name} ends{}", inside(open))).hint(fate))
        }
        (Ending::Wanted, Some(open)) => {
            say(&format!("warning: {name}: the position asked for lies{}", inside(open)));
            disorder(name, extent)
        }
        (Ending::Whole | Ending::Wanted, _) => disorder(name, extent),
    }
}

fn disorder(name: &str, extent: &Extent) -> Result<(), Failure> {
    match &extent.facts.disorder {
        None => Ok(()),
        Some(what) => Err(Failure::new(Exit::Damaged, format!("{name}: {what}"))
            .hint("every event is whole, but together they are no transactions: check where the file comes from")),
    }
}

/// Says what was done with one file: data on stdout, talk on stderr.
fn tell(job: &Job, report: &FileReport) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = match job.task {
        _ if job.json => writeln!(stdout, "{}", report.to_json()),
        Task::Inspect => write!(stdout, "{report}"),
        Task::Verify if report.error.is_none() => writeln!(stdout, "{}", report.summary()),
        Task::ToFile(_) | Task::ToFolder(_) if report.error.is_none() => {
            say(&report.summary());
            Ok(())
        }
        Task::Verify | Task::ToFile(_) | Task::ToFolder(_) | Task::ToStdout => Ok(()),
    };
    written.map_err(|error| Failure::io("stdout", &error))
}
