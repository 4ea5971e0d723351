//! The other ends of the lesson's servers: what they do in each step, and what is printed of it.

#![allow(dead_code, reason = "each step has its own peers")]

pub(crate) mod bound;
pub(crate) mod cable;
pub(crate) mod kernel;
pub(crate) mod narrator;
pub(crate) mod silence;
pub(crate) mod trials;
pub(crate) mod visitors;
pub(crate) mod websocket;
