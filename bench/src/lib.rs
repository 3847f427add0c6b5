//! Shared pieces of the benchmark targets in `benches/`.
