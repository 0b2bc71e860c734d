//! The whole city in one process.
