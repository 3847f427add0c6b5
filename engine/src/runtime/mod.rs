//! The engine at run time.
pub(crate) mod driver;
