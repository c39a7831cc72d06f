#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| highwater::fuzzing::run("encryption_header", bytes));
