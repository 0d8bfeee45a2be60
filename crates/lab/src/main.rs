//! Development only: real Meshara processes in network namespaces, faults and measurements.
fn main() {}
