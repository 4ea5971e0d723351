//! Code of users, wherever it is called: loggers, handlers, callbacks, errors and memory that do the worst they can.

mod logger;
mod panics;
