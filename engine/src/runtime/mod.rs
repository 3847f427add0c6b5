//! The engine at run time.
pub(crate) mod driver;
#[cfg(test)]
#[cfg(not(loom))]
mod driver_tests;
pub(crate) mod mmsg_driver;
pub(crate) mod uring_driver;
