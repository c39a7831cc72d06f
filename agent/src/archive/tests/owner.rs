//! The newest agent is the archive's.

use highwater_catalog::{AgentOwner, Epoch, agent_manifest_key};

use super::*;

fn owner(pid: u32) -> AgentOwner {
    AgentOwner { host: "backup1".to_owned(), pid, started: Micros(1_700_000_000_000_000) }
}

#[test]
fn the_agent_that_took_over_last_is_the_newest() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    assert_eq!(archive.newest_epoch().unwrap(), None);
    assert_eq!(archive.take_over(&owner(1)).unwrap(), Epoch(1));
    assert_eq!(archive.take_over(&owner(2)).unwrap(), Epoch(2));
    assert_eq!(archive.newest_epoch().unwrap(), Some((Epoch(2), owner(2))));
    assert_eq!(archive.take_over(&owner(1)).unwrap(), Epoch(3), "the same one again, too");
    assert_eq!(archive.newest_epoch().unwrap(), Some((Epoch(3), owner(1))));
}

#[test]
fn agents_that_start_at_once_get_different_epochs() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let mut epochs: Vec<_> = std::thread::scope(|scope| {
        let take = |pid| archive.take_over(&owner(pid)).unwrap();
        let starting: Vec<_> = (1..=8).map(|pid| scope.spawn(move || take(pid))).collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    epochs.sort();
    assert_eq!(epochs, (1..=8).map(Epoch).collect::<Vec<_>>());
}

#[test]
fn only_ten_epochs_are_kept() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    for pid in 1..=25 {
        assert_eq!(archive.take_over(&owner(pid)).unwrap(), Epoch(pid));
        let marks = keys(&store).into_iter().filter(|key| key.starts_with("agents/")).collect::<Vec<_>>();
        let kept = (pid.saturating_sub(9).max(1)..=pid).map(|epoch| agent_manifest_key(Epoch(epoch)));
        assert_eq!(marks, kept.collect::<Vec<_>>());
    }
    assert_eq!(archive.newest_epoch().unwrap(), Some((Epoch(25), owner(25))));
}

#[test]
fn a_damaged_mark_is_an_error_and_can_be_taken_over_from() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    archive.take_over(&owner(1)).unwrap();
    store.overwrite(&key(&agent_manifest_key(Epoch(1))), b"{".to_vec());
    assert!(matches!(archive.newest_epoch().unwrap_err(), ArchiveError::Manifest(_)));
    assert_eq!(archive.take_over(&owner(2)).unwrap(), Epoch(2));
    assert_eq!(archive.newest_epoch().unwrap(), Some((Epoch(2), owner(2))));
}

#[test]
fn marks_are_neither_in_the_inventory_nor_in_its_way() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    archive.publish_timeline(&timeline()).unwrap();
    archive.take_over(&owner(1)).unwrap();
    let scan = archive.scan(&Inventory::default()).unwrap();
    assert_eq!((scan.inventory.timelines.len(), scan.problems.len(), scan.fetched), (1, 0, 1));
}
