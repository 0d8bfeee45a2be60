//! The meshara command.
fn main() {}
