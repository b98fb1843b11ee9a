//! `lab.yaml`: a lab, or findings that point into the text. Never anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| faultline_lab::fuzzing::lab_yaml(text));
