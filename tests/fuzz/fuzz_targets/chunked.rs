#![no_main]

#[path = "../checks/http1.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::chunked(bytes));
