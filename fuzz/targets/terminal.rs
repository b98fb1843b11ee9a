//! What pages and programs send over their WebSockets.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| faultline_server::fuzzing::terminal_message(data));
