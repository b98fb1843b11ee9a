//! The helper inside a guest.

fn main() {}
