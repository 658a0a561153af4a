//! Fuzz targets. `make fuzz` runs them; the plain test `tests/tests/corpus.rs` runs the same functions over the corpus.

pub mod targets;
