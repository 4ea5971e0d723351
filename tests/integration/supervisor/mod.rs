//! Code of users, wherever it is called: loggers, handlers, callbacks, errors and memory that do the worst they can.

mod lent_memory;
mod logger;
mod panics;
