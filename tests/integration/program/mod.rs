//! The program `heartwire` as it is run: `serve` with its options and its status page, `connect`,
//! `check`, `subscribe` and `publish`, and what it prints of itself.

#[cfg(feature = "auth-url")]
mod auth_url;
mod check;
#[cfg(feature = "deflate")]
mod compression;
mod connect;
mod connect_end_of_input;
#[cfg(feature = "completions")]
mod generated;
mod proxies;
#[cfg(feature = "topics")]
mod publish;
mod serve;
mod serve_options;
mod status;
#[cfg(feature = "topics")]
mod subscribe;
#[cfg(target_os = "linux")]
mod systemd;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "topics")]
mod topics;
#[cfg(feature = "tls")]
mod wss;
