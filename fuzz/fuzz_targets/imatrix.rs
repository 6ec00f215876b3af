#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tonfall_fuzz::imatrix(bytes));
