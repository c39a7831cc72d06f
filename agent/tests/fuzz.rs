//! The fuzz targets over their corpora and seeded mutations of them: `HIGHWATER_FUZZ_ROUNDS` of each file.

use std::fs;
use std::path::Path;

use highwater::fuzzing::TARGETS;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Values that lengths, counts and types have at their edges.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfe, 0xff];

fn rounds() -> u64 {
    std::env::var("HIGHWATER_FUZZ_ROUNDS").map_or(200, |rounds| rounds.parse().expect("a number of rounds"))
}

fn mutated(original: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..rng.random_range(1..6) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        let len = rng.random_range(1..=(bytes.len() - at).min(64));
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = EDGES[rng.random_range(0..EDGES.len())],
            2 => bytes[at..at + len].fill(0xff),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + len)),
            _ => {
                let copy = bytes[at..at + len].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
    bytes
}

#[test]
fn every_target_takes_its_corpus_and_mutations_of_it() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, target) in TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpora.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let original = fs::read(&file).unwrap();
            target(&original);
            for round in 0..rounds() {
                let bytes = mutated(&original, &mut StdRng::seed_from_u64(round));
                let result = std::panic::catch_unwind(|| target(&bytes));
                assert!(result.is_ok(), "{name}: {} mutated with seed {round}", file.display());
            }
        }
    }
}

#[test]
fn every_corpus_has_a_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for folder in fs::read_dir(corpora).unwrap() {
        let name = folder.unwrap().file_name();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{}", name.display());
    }
}
