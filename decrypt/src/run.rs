//! One file after the other.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::binlog_file::{BinlogFile, PlainStream};
use crate::cli::{Job, Task};
use crate::decode::{Ending, Extent, decode};
use crate::failure::{Exit, Failure};
use crate::keys::Keys;
use crate::output::{Output, create_folder};
use crate::report::FileReport;

/// Does the job for every file, failed ones or not. The exit is that of the first file that failed.
///
/// # Errors
/// What keeps every file from being done: unusable keyrings, an output folder that cannot be made, a closed stdout.
pub(crate) fn run(job: &Job) -> Result<Exit, Failure> {
    let keys = Keys::collect(&job.places)?;
    if let Task::ToFolder(folder) = &job.task {
        create_folder(folder)?;
    }
    let mut exit = Exit::Done;
    for path in &job.files {
        let mut report = FileReport::new(path);
        let result = process(path, &job.task, &keys, &mut report);
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

fn process(path: &Path, task: &Task, keys: &Keys, report: &mut FileReport) -> Result<(), Failure> {
    let file = BinlogFile::open(path)?;
    report.add_file(&file);
    if matches!(task, Task::Inspect) && keys.is_empty() && file.header().is_some() {
        // Without keyrings only the header can be told; that is no failure.
        return Ok(());
    }
    let mut stream = file.unlock(keys)?;
    report.add_stream(&stream);
    let output = match task {
        Task::Inspect => return Ok(()),
        Task::Verify => None,
        Task::ToStdout => Some(Output::stdout()),
        Task::ToFile(target) => Some(Output::file(target)?),
        Task::ToFolder(folder) => Some(Output::file(&target_in(folder, path))?),
    };
    match output {
        None => {
            let extent = decode(path, &mut stream, |_| Ok(()))?;
            report.add_extent(&extent);
            judge(path, &stream, &extent, None)
        }
        Some(output) => write(path, &mut stream, output, report),
    }
}

fn target_in(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path.file_name().unwrap_or_default())
}

/// Writes every whole event. A cut end leaves a complete file of whole events; damage in the middle does not.
fn write(path: &Path, stream: &mut PlainStream, mut output: Output, report: &mut FileReport) -> Result<(), Failure> {
    let extent = decode(path, stream, |bytes| output.write(bytes))?;
    report.add_extent(&extent);
    let target = match extent.ending {
        Ending::Whole | Ending::Torn { .. } => output.finish()?,
        Ending::Damaged { .. } => output.finish_partial()?,
    };
    if let Some(target) = &target {
        report.add_output(target);
    }
    judge(path, stream, &extent, target.as_deref())
}

/// Whether a file that was read to its end, or as far as it could be, is a whole one.
fn judge(path: &Path, stream: &PlainStream, extent: &Extent, target: Option<&Path>) -> Result<(), Failure> {
    let (path, end) = (path.display(), extent.end);
    match &extent.ending {
        Ending::Whole => Ok(()),
        Ending::Torn { bytes } => {
            let text = format!("{path} ends inside of an event: {bytes} bytes after offset {end} are not a whole one");
            Err(Failure::new(Exit::Damaged, text).hint(if stream.opening.in_use {
                "its server was still writing it, or was killed: all whole events are there; a later copy may have more"
            } else {
                "all events before it are whole; the file was closed by its server, so a longer copy of it existed"
            }))
        }
        Ending::Damaged { what } => {
            let failure = Failure::new(Exit::Damaged, format!("{path}: {what}"));
            Err(failure.hint(match target {
                Some(target) => format!("the {end} bytes before it are whole and are in {}", target.display()),
                None => format!("the {end} bytes before it are whole; look for another copy of the file"),
            }))
        }
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
            eprintln!("{}", report.summary());
            Ok(())
        }
        Task::Verify | Task::ToFile(_) | Task::ToFolder(_) | Task::ToStdout => Ok(()),
    };
    written.map_err(|error| Failure::io("stdout", &error))
}
