//! For the tests of applications (feature `testing`).

pub use crate::http::request::builder::RequestBuilder;
