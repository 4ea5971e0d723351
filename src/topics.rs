//! Topics: names under which messages are published, with subscribers that miss none of them.

pub(crate) mod name;

pub use name::{InvalidTopic, TopicName, TopicPattern};
