//! For the tests of applications (feature `testing`).

mod timeline;

pub use crate::http::request::builder::RequestBuilder;
pub use timeline::{Beat, Timeline};
