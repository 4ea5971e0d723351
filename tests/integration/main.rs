//! The library and the program as their users see them. The folders are those of `src/`.
//!
//! The tests run beside one another in one process. One that counts what a process has, or sets what there is one of in
//! a process, starts one of its own: see [`support::alone`].

#[path = "../support/mod.rs"]
mod support;

mod client;
mod connection;
#[cfg(feature = "cli")]
mod examples;
mod heartbeat;
mod lesson;
#[cfg(feature = "cli")]
mod program;
mod public_api;
mod server;
mod settings;
mod structure;
mod supervisor;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "topics")]
mod topics;
