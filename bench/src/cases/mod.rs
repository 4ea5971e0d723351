//! What is measured.

pub(crate) mod echo;
pub(crate) mod idle;
