//! The program `heartwire` as it is run: `serve` with its options and its status page, `connect` and `check`.

mod check;
mod connect;
mod connect_end_of_input;
mod serve;
mod serve_options;
mod status;
