//! Why a message was not sent or not confirmed: one error type for each set of causes.

use std::error::Error as StdError;
use std::fmt;

use crate::protocol::close::CloseReason;

/// Why [`Sender::try_send`](crate::Sender::try_send) or [`Sender::send_timeout`](crate::Sender::send_timeout) did not
/// take a message. The message comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySendError<T> {
    /// The connection's queue is full, because its peer is slow.
    Full(T),
    /// The connection is closed or closing.
    Closed(T),
}

impl<T> TrySendError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the queue is full",
            Self::Closed(_) => "the connection is closed",
        })
    }
}

impl<T: fmt::Debug> StdError for TrySendError<T> {}

/// Why [`ServerHandle::send_to`](crate::ServerHandle::send_to) did not take a message. The message comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendToError<T> {
    /// The server has no connection of this number, or no longer.
    NoSuchConnection(T),
    /// The connection's queue is full, because its peer is slow.
    Full(T),
    /// The connection is closed or closing.
    Closed(T),
}

impl<T> SendToError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::NoSuchConnection(message) | Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

impl<T> From<TrySendError<T>> for SendToError<T> {
    fn from(error: TrySendError<T>) -> Self {
        match error {
            TrySendError::Full(message) => Self::Full(message),
            TrySendError::Closed(message) => Self::Closed(message),
        }
    }
}

impl<T> fmt::Display for SendToError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchConnection(_) => "there is no such connection",
            Self::Full(_) => "the queue is full",
            Self::Closed(_) => "the connection is closed",
        })
    }
}

impl<T: fmt::Debug> StdError for SendToError<T> {}

/// Why [`ClientHandle::send`](crate::ClientHandle::send) or [`ClientHandle::try_send`](crate::ClientHandle::try_send)
/// did not take a message. The message comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientSendError<T> {
    /// The client has no connection now, and no [outbox](crate::Client::outbox_size).
    NotConnected(T),
    /// The client has no connection now, and its outbox is full. From `try_send` also if the connection's queue is
    /// full.
    Full(T),
    /// The client was stopped or has ended: there will be no more connections.
    Closed(T),
}

impl<T> ClientSendError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::NotConnected(message) | Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

impl<T> fmt::Display for ClientSendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected(_) => "not connected",
            Self::Full(_) => "the outbox or the queue is full",
            Self::Closed(_) => "the client was stopped or has ended",
        })
    }
}

impl<T: fmt::Debug> StdError for ClientSendError<T> {}

/// Why [`Sender::confirm`](crate::Sender::confirm) could not confirm that the peer has read everything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfirmError {
    /// The Pong did not come in time.
    Timeout,
    /// The connection is closed or closing, or ended meanwhile.
    Closed(CloseReason),
}

impl fmt::Display for ConfirmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the peer did not confirm in time"),
            Self::Closed(reason) => write!(f, "connection closed: {reason}"),
        }
    }
}

impl StdError for ConfirmError {}
