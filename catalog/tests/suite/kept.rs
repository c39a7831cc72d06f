//! Which kept files belong together.

use highwater_catalog::{FileRange, FileRefusal, KeptFile, Micros, file_range};
use highwater_keyring::FileMark;

use crate::support::{gtids, kept, server};

fn files() -> Vec<KeptFile> {
    (1..=4).map(kept).collect()
}

fn range(from: Option<u64>, to: Option<u64>) -> FileRange {
    let name = |number: u64| format!("binlog.{number:06}").parse().unwrap();
    FileRange { server: None, from: from.map(name), to: to.map(name) }
}

fn names(files: &[KeptFile], wanted: &FileRange) -> Result<Vec<String>, FileRefusal> {
    Ok(file_range(files, wanted)?.into_iter().map(|file| file.binlog.to_string()).collect())
}

#[test]
fn a_range_has_its_ends_and_all_between() {
    assert_eq!(names(&files(), &FileRange::default()).unwrap().len(), 4);
    assert_eq!(names(&files(), &range(Some(2), Some(3))).unwrap(), ["binlog.000002", "binlog.000003"]);
    assert_eq!(names(&files(), &range(Some(4), None)).unwrap(), ["binlog.000004"]);
}

#[test]
fn names_are_ordered_by_their_numbers() {
    let mut files = files();
    for (file, name) in files.iter_mut().zip(["b.999998", "b.999999", "b.1000000", "b.1000001"]) {
        file.binlog = name.parse().unwrap();
    }
    files.reverse();
    assert_eq!(names(&files, &FileRange::default()).unwrap(), ["b.999998", "b.999999", "b.1000000", "b.1000001"]);
}

#[test]
fn a_file_that_is_missing_between_two_is_a_gap_with_its_transactions() {
    let mut files = files();
    files.remove(1);
    let error = names(&files, &FileRange::default()).unwrap_err();
    assert_eq!(
        error,
        FileRefusal::Gap {
            previous: "binlog.000001".parse().unwrap(),
            next: "binlog.000003".parse().unwrap(),
            missing: Box::new(gtids("21-30")),
        }
    );
    assert_eq!(
        error.to_string(),
        format!("binlog.000003 does not continue binlog.000001: {} between them", gtids("21-30"))
    );
    assert_eq!(error.hint(), "take what belongs together: `--to binlog.000001`, or `--from binlog.000003`");
    assert_eq!(names(&files, &range(Some(3), None)).unwrap().len(), 2);
}

#[test]
fn without_gtids_only_neighbours_continue_each_other() {
    let mut files = files();
    for file in &mut files {
        (file.gtids_before, file.gtids_added) = (gtids(""), gtids(""));
    }
    assert_eq!(names(&files, &FileRange::default()).unwrap().len(), 4);
    files.remove(2);
    let error = names(&files, &FileRange::default()).unwrap_err();
    assert_eq!(error.to_string(), "binlog.000004 does not continue binlog.000002");
}

#[test]
fn of_two_files_with_one_name_the_later_one_counts() {
    let mut files = files();
    let mut before = kept(2);
    before.mark = FileMark::of_body(&[0xee; 16]).unwrap();
    (before.gtids_before, before.taken) = (gtids("1-7"), Micros(1));
    files.push(before.clone());
    let range = file_range(&files, &FileRange::default()).unwrap();
    assert!(range.iter().all(|file| file.mark != before.mark));
    // A server that was reset wrote it after all the others.
    files[4].taken = Micros(1_000);
    assert!(matches!(names(&files, &FileRange::default()), Err(FileRefusal::Gap { .. })));
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    assert_eq!(names(&[], &FileRange::default()).unwrap_err(), FileRefusal::None { server: None });
    let error = names(&files(), &range(Some(9), None)).unwrap_err();
    assert!(error.hint().starts_with("it has binlog.000001 to binlog.000004"), "{}", error.hint());
    let error = names(&files(), &range(Some(3), Some(2))).unwrap_err();
    assert_eq!(error.to_string(), "binlog.000002 comes before binlog.000003");
    let other = FileRange { server: Some(server(9)), ..FileRange::default() };
    assert_eq!(names(&files(), &other).unwrap_err(), FileRefusal::None { server: Some(server(9)) });
}

#[test]
fn files_of_several_servers_are_never_mixed() {
    let mut files = files();
    files[3].server = server(2);
    let error = names(&files, &FileRange::default()).unwrap_err();
    assert_eq!(error, FileRefusal::AmbiguousServer { servers: vec![server(1), server(2)] });
    let one = FileRange { server: Some(server(2)), ..FileRange::default() };
    assert_eq!(names(&files, &one).unwrap(), ["binlog.000004"]);
}
