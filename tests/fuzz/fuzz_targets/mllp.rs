#![no_main]

#[path = "../checks/net.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::mllp(bytes));
