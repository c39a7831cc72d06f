use std::fs;
use std::io::Read;
use std::path::Path;

use highwater_binlog::FIRST_EVENT_OFFSET;

use super::*;

/// A binlog that a server wrote: magic, format description, events.
const BINLOG: &[u8] = include_bytes!("../../../../binlog/tests/data/rows.binlog");

/// Its format description event.
fn description() -> &'static [u8] {
    let len = EventHeader::read(&BINLOG[MAGIC.len()..]).unwrap().event_len as usize;
    &BINLOG[MAGIC.len()..MAGIC.len() + len]
}

fn mark() -> LineageMark {
    "0123456789abcdef".parse().unwrap()
}

fn name(start: u64) -> StretchName {
    StretchName {
        number: 0,
        timeline: highwater_catalog::TimelineId(1),
        server: "3e11fa47-71ca-11e1-9e33-c80aa9429562".parse().unwrap(),
        binlog: "binlog.000042".parse().unwrap(),
        start,
        follows: mark(),
    }
}

fn bytes(stretch: &Stretch, start: u64, end: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    stretch.read(start, end).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn stretches(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".stretch")).count()
}

fn key(folder: &Path) -> SpoolKey {
    SpoolKey::open(&folder.join("keyring"), "00000000-0000-0000-0000-000000000001".parse().unwrap()).unwrap()
}

#[test]
fn bytes_come_back_by_their_offset_plain_and_encrypted() {
    for encrypted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path(), encrypted.then(|| key(folder.path()))).unwrap();
        assert_eq!(spool.begin(name(0), description(), Keep::Spooled).unwrap(), FIRST_EVENT_OFFSET);
        spool.append(b"abcdef").unwrap();
        spool.sync().unwrap();
        let first = spool.hand_over(7, mark(), Keep::Spooled).unwrap();
        spool.append(b"gh").unwrap();
        assert_eq!(bytes(&first, 0, 7), b"\xfebinabc");
        assert_eq!(bytes(&first, 7, 12), b"defgh");
        spool.begin(name(1000), description(), Keep::Spooled).unwrap();
        spool.append(b"later").unwrap();
        let second = spool.hand_over(1005, mark(), Keep::Spooled).unwrap();
        assert_eq!(bytes(&second, 1002, 1005), b"ter");
        let on_disk = fs::read(second.path()).unwrap();
        assert_eq!(on_disk.windows(5).any(|window| window == b"later"), !encrypted);
    }
}

#[test]
fn what_is_published_whole_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
    spool.begin(name(100), description(), Keep::Spooled).unwrap();
    spool.append(b"abc").unwrap();
    let stretch = spool.hand_over(103, mark(), Keep::Spooled).unwrap();
    spool.append(b"def").unwrap();
    spool.sync().unwrap();
    assert_eq!(stretches(folder.path()), 2);
    stretch.published(103);
    drop(stretch);
    assert_eq!(stretches(folder.path()), 1);
    // Handed over and not published, then the agent ends.
    drop(spool.hand_over(106, mark(), Keep::Spooled).unwrap());
    drop(spool);
    assert_eq!(stretches(folder.path()), 2, "the one that was handed over, and the one begun behind it");
    let (spool, left) = Spool::open(folder.path(), None).unwrap();
    assert_eq!(left.iter().map(|name| name.start).collect::<Vec<_>>(), [103, 106]);
    let (stretch, _) = spool.adopt(&left[0]).unwrap();
    assert_eq!(bytes(&stretch, 103, 106), b"def");
}

#[test]
fn what_is_asked_for_again_takes_no_space() {
    for start in [0, 100] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
        spool.begin(name(start), description(), Keep::Spooled).unwrap();
        spool.append(b"half a transaction").unwrap();
        spool.sync().unwrap();
        spool.discard();
        assert_eq!((stretches(folder.path()), spool.bytes()), (0, 0), "a stretch from {start} on");
    }
}

#[test]
fn what_was_handed_over_stays_until_it_is_published_though_the_rest_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
    spool.begin(name(100), description(), Keep::Spooled).unwrap();
    spool.append(b"whole, and half").unwrap();
    let stretch = spool.hand_over(105, mark(), Keep::Spooled).unwrap();
    spool.discard();
    drop(stretch);
    let (spool, left) = Spool::open(folder.path(), None).unwrap();
    let (stretch, _) = spool.adopt(&left[0]).unwrap();
    assert_eq!(bytes(&stretch, 100, 105), b"whole");
    stretch.close(105);
    stretch.published(105);
    drop(stretch);
    assert_eq!(stretches(folder.path()), 0);
}

#[test]
fn a_failed_write_keeps_what_was_on_the_disk_before_and_cuts_the_rest_off() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
    spool.begin(name(0), description(), Keep::Spooled).unwrap();
    spool.append(b"durable").unwrap();
    spool.sync().unwrap();
    let stretch = spool.current().unwrap();
    spool.append(b"not durable").unwrap();
    stretch.hand_over(11);
    spool.abandon().unwrap();
    assert_eq!(fs::read(stretch.path()).unwrap(), b"\xfebindurable");
    spool.begin(name(11), description(), Keep::Spooled).unwrap();
    spool.append(b"never on the disk").unwrap();
    spool.abandon().unwrap();
    assert_eq!(stretches(folder.path()), 1);
}

#[test]
fn a_failed_write_behind_what_is_to_be_published_costs_nothing_of_it() {
    for is_ended in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
        spool.begin(name(100), description(), Keep::Spooled).unwrap();
        spool.append(b"handed over, and open").unwrap();
        spool.sync().unwrap();
        let stretch = spool.hand_over(111, mark(), Keep::Spooled).unwrap();
        stretch.hand_over(111);
        spool.append(b" to the end").unwrap();
        // Where it ended in the write that failed, another one was begun.
        let written = is_ended.then(|| spool.hand_over(132, mark(), Keep::Spooled).unwrap());
        spool.abandon().unwrap();
        assert!(fs::read(stretch.path()).unwrap().ends_with(b"handed over"), "{is_ended}");
        // The agent ends before it is published.
        drop((written, stretch, spool));
        let (spool, left) = Spool::open(folder.path(), None).unwrap();
        assert_eq!(left.len(), 1);
        let (stretch, _) = spool.adopt(&left[0]).unwrap();
        assert_eq!(bytes(&stretch, 100, 111), b"handed over");
    }
}

#[test]
fn the_spool_of_another_key_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), Some(key(folder.path()))).unwrap();
    spool.begin(name(5), description(), Keep::Spooled).unwrap();
    spool.append(b"secret").unwrap();
    spool.sync().unwrap();
    drop(spool);
    let elsewhere = tempfile::tempdir().unwrap();
    for other in [None, Some(key(elsewhere.path()))] {
        let (spool, left) = Spool::open(folder.path(), other).unwrap();
        let error = spool.adopt(&left[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn a_stretch_whose_key_is_not_there_is_named_and_one_that_is_torn_or_plain_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let locked = |key: Option<&SpoolKey>| Spool::locked(folder.path(), key).unwrap();
    let ours = key(folder.path());
    let (mut spool, _) = Spool::open(folder.path(), Some(key(folder.path()))).unwrap();
    spool.begin(name(5), description(), Keep::Spooled).unwrap();
    let path = spool.current().unwrap().path().to_owned();
    drop(spool);
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(locked(Some(&ours)), None);
    assert_eq!(locked(None), Some(path.clone()));
    // Of the same name, with other bytes.
    assert_eq!(locked(Some(&key(elsewhere.path()))), Some(path.clone()));
    fs::File::options().write(true).open(&path).unwrap().set_len(300).unwrap();
    assert_eq!(locked(None), None);
    fs::remove_file(&path).unwrap();
    Spool::open(folder.path(), None).unwrap().0.begin(name(5), description(), Keep::Spooled).unwrap();
    assert_eq!(locked(None), None);
    assert_eq!(Spool::locked(&folder.path().join("absent"), None).unwrap(), None);
}

#[test]
fn names_of_stretches_come_back_and_others_are_none() {
    let name = StretchName { number: 12, ..name(7) };
    let text = name.to_string();
    assert_eq!(
        text,
        "00000012_0001_3e11fa47-71ca-11e1-9e33-c80aa9429562_00000000000000000007_0123456789abcdef_binlog.000042.stretch"
    );
    assert_eq!(text.parse(), Ok(name));
    for other in [
        "reserve",
        "x.stretch",
        "1_1_x_1_a.stretch",
        "00000012_0001_3e11fa47-71ca-11e1-9e33-c80aa9429562_7_0123456789abcdef_../x.stretch",
        "00000012_0001_3e11fa47-71ca-11e1-9e33-c80aa9429562_7_0123456789abcde_x.stretch",
    ] {
        assert!(other.parse::<StretchName>().is_err(), "{other}");
    }
}

#[test]
fn events_that_changed_on_the_disk_are_told() {
    let places = places();
    let (start, end) = (places[3], places[8]);
    for encrypted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path(), encrypted.then(|| key(folder.path()))).unwrap();
        spool.begin(name(0), description(), Keep::Spooled).unwrap();
        spool.append(&BINLOG[MAGIC.len()..end]).unwrap();
        spool.sync().unwrap();
        let stretch = spool.current().unwrap();
        let read = || {
            let mut bytes = Vec::new();
            stretch.read_events(start as u64, end as u64).unwrap().read_to_end(&mut bytes).map(|_| bytes)
        };
        assert_eq!(read().unwrap(), &BINLOG[start..end]);
        let good = fs::read(stretch.path()).unwrap();
        let header = good.len() - end;
        // Inside of an event, and lengths: too short, and so long that they reach behind the last event.
        for (at, bit) in [(places[4] + 25, 1), (places[3] + 9, 2), (places[3] + 11, 0x10), (places[7] + 11, 0x10)] {
            let mut changed = good.clone();
            changed[header + at] ^= bit;
            fs::write(stretch.path(), changed).unwrap();
            let error = read().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}: {error}");
        }
        fs::write(stretch.path(), &good[..good.len() - 1]).unwrap();
        assert_eq!(read().unwrap_err().to_string(), "the file ends early");
        fs::remove_file(stretch.path()).unwrap();
        assert_eq!(stretch.read_events(start as u64, end as u64).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}

/// Offsets at which the first events of [`BINLOG`] begin.
fn places() -> Vec<usize> {
    let next = |offset: &usize| Some(offset + EventHeader::read(&BINLOG[*offset..]).unwrap().event_len as usize);
    std::iter::successors(Some(MAGIC.len()), next).take(9).collect()
}

fn events(stretch: &Stretch, start: usize, end: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    stretch.read_events(start as u64, end as u64).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// A spool that holds the first events in two stretches, of which the second one goes on; and the first one.
fn holding(folder: &Path, key: Option<SpoolKey>) -> (Spool, Arc<Stretch>) {
    let places = places();
    let (mut spool, _) = Spool::open(folder, key).unwrap();
    spool.begin(name(0), description(), Keep::Held).unwrap();
    spool.append(&BINLOG[MAGIC.len()..places[3]]).unwrap();
    spool.append(&BINLOG[places[3]..places[5]]).unwrap();
    let first = spool.hand_over(places[5] as u64, mark(), Keep::Held).unwrap();
    first.hand_over(places[5] as u64);
    spool.append(&BINLOG[places[5]..places[7]]).unwrap();
    spool.sync_file().unwrap();
    (spool, first)
}

#[test]
fn what_is_held_is_read_from_memory_and_nothing_of_it_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let places = places();
    let (mut spool, first) = holding(folder.path(), None);
    assert_eq!((stretches(folder.path()), spool.bytes(), spool.is_holding()), (0, 0, true));
    assert_eq!(events(&first, 0, places[5]), &BINLOG[..places[5]]);
    assert_eq!(events(&first, places[2], places[4]), &BINLOG[places[2]..places[4]]);
    let second = spool.current().unwrap();
    assert_eq!(bytes(&second, places[6] as u64, places[7] as u64), &BINLOG[places[6]..places[7]]);
    // What comes behind what was read is held too.
    spool.append(&BINLOG[places[7]..places[8]]).unwrap();
    assert_eq!(events(&second, places[5], places[8]), &BINLOG[places[5]..places[8]]);
    assert_eq!(first.held_bytes() + second.held_bytes(), places[8] as u64);
    first.published(places[5] as u64);
    assert_eq!(spool.held().map(|stretch| stretch.held_bytes()).sum::<u64>(), (places[8] - places[5]) as u64);
    drop((first, second));
    spool.discard();
    assert_eq!((stretches(folder.path()), spool.is_holding()), (0, false));
}

#[test]
fn what_is_held_is_written_before_anything_that_follows_and_outlives_the_agent() {
    let places = places();
    for encrypted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let key = || encrypted.then(|| key(folder.path()));
        let (mut spool, first) = holding(folder.path(), key());
        let second = spool.hand_over(places[7] as u64, mark(), Keep::Spooled).unwrap();
        assert_eq!((stretches(folder.path()), spool.is_holding()), (3, false));
        assert_eq!(events(&first, 0, places[5]), &BINLOG[..places[5]], "the same from the disk");
        drop((spool, first, second));
        let (spool, left) = Spool::open(folder.path(), key()).unwrap();
        assert_eq!(left.iter().map(|name| name.start).collect::<Vec<_>>(), [0, places[5] as u64, places[7] as u64]);
        let (stretch, _) = spool.adopt(&left[1]).unwrap();
        assert_eq!(events(&stretch, places[5], places[7]), &BINLOG[places[5]..places[7]]);
    }
}

#[test]
fn what_was_held_goes_on_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let places = places();
    let (mut spool, first) = holding(folder.path(), None);
    let reading = first.read_events(0, places[5] as u64).unwrap();
    spool.sync().unwrap();
    let second = spool.current().unwrap();
    assert_eq!(fs::read(first.path()).unwrap(), &BINLOG[..places[5]]);
    spool.append(&BINLOG[places[7]..places[8]]).unwrap();
    spool.sync().unwrap();
    assert_eq!(events(&second, places[5], places[8]), &BINLOG[places[5]..places[8]]);
    assert!(fs::read(second.path()).unwrap().ends_with(&BINLOG[places[5]..places[8]]));
    assert_eq!(reading.bytes().collect::<io::Result<Vec<_>>>().unwrap(), &BINLOG[..places[5]], "begun before");
    first.published(places[5] as u64);
    drop(first);
    assert_eq!(stretches(folder.path()), 1);
}

#[test]
fn what_is_published_from_memory_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, first) = holding(folder.path(), None);
    first.published(places()[5] as u64);
    spool.sync().unwrap();
    assert_eq!(stretches(folder.path()), 1, "the second one");
    assert!(!first.path().exists());
}

#[test]
fn what_cannot_be_written_stays_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let places = places();
    let (mut spool, first) = holding(folder.path(), None);
    // Somebody else's file of the same name.
    fs::write(first.path(), b"x").unwrap();
    spool.sync().unwrap_err();
    assert_eq!((fs::read(first.path()).unwrap(), spool.bytes(), spool.is_holding()), (b"x".to_vec(), 0, true));
    assert_eq!(events(&first, 0, places[5]), &BINLOG[..places[5]]);
    spool.abandon().unwrap();
    assert_eq!(events(&first, 0, places[5]), &BINLOG[..places[5]]);
    fs::remove_file(first.path()).unwrap();
    // The next attempt writes what is still wanted, before anything else.
    spool.begin(name(5000), description(), Keep::Spooled).unwrap();
    assert_eq!(stretches(folder.path()), 2);
    assert_eq!(fs::read(first.path()).unwrap(), &BINLOG[..places[5]]);
}

#[test]
fn of_what_is_held_only_what_is_to_be_published_is_written_once_the_rest_was_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let places = places();
    let (mut spool, first) = holding(folder.path(), None);
    let second = spool.hand_over(places[6] as u64, mark(), Keep::Held).unwrap();
    second.hand_over(places[6] as u64);
    spool.discard();
    spool.sync().unwrap();
    assert_eq!(fs::read(first.path()).unwrap(), &BINLOG[..places[5]]);
    assert!(fs::read(second.path()).unwrap().ends_with(&BINLOG[places[5]..places[6]]));
}

#[test]
fn memory_is_counted_in_whole_pages_while_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
    spool.begin(name(100), description(), Keep::Held).unwrap();
    let page = {
        spool.append(b"a").unwrap();
        spool.current().unwrap().held_memory()
    };
    assert!(page > 1_000_000);
    spool.append(&vec![b'b'; 2 * usize::try_from(page).unwrap()]).unwrap();
    let stretch = spool.current().unwrap();
    assert_eq!(stretch.held_memory(), 3 * page);
    spool.sync().unwrap();
    assert_eq!(stretch.held_memory(), 0);
}

#[test]
fn bytes_of_a_transaction_that_goes_on_move_to_a_new_stretch_and_those_before_them_are_let_go() {
    for keep in [Keep::Spooled, Keep::Held] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
        spool.begin(name(100), description(), keep).unwrap();
        let end = 100 + FREED_BYTES_MIN;
        spool.append(&vec![b'a'; FREED_BYTES_MIN as usize]).unwrap();
        spool.append(b"a part").unwrap();
        let first = spool.hand_over(end, mark(), keep).unwrap();
        let second = spool.current().unwrap();
        spool.append(b" and the rest").unwrap();
        assert_eq!((second.name().start, bytes(&second, end, end + 19)), (end, b"a part and the rest".to_vec()));
        let held = if keep == Keep::Held { FREED_BYTES_MIN + 19 } else { 0 };
        assert_eq!(spool.held_bytes(), held, "none of them twice");
        spool.sync().unwrap();
        assert_eq!(stretches(folder.path()), 2, "{keep:?}");
        assert!(fs::read(second.path()).unwrap().ends_with(b"a part and the rest"));
        first.published(end);
        drop(first);
        assert_eq!(stretches(folder.path()), 1, "{keep:?}");
        assert!(spool.bytes() < 1000);
    }
}

#[test]
fn a_stretch_goes_on_where_too_much_would_move() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(folder.path(), None).unwrap();
    spool.begin(name(100), description(), Keep::Spooled).unwrap();
    spool.append(&vec![b'a'; (FREED_BYTES_MIN + MOVED_BYTES_MAX + 1) as usize]).unwrap();
    spool.hand_over(100 + FREED_BYTES_MIN, mark(), Keep::Spooled).unwrap();
    assert_eq!((stretches(folder.path()), spool.current().unwrap().name().start), (1, 100));
}
