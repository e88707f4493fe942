#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| journalfs_fuzz::targets::manifest(data));
