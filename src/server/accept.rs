//! The terms on which an opening handshake is accepted.

use std::any::Any;

use crate::connection::attached::Attached;
use crate::connection::user::{InvalidUserName, UserName};
#[cfg(feature = "deflate")]
use crate::deflate::negotiation::Agreed;
use crate::heartbeat::HeartbeatPolicy;

/// The subprotocol of clients that send their heartbeat as text.
pub(crate) const TEXT_HEARTBEAT: &str = "heartwire.v1";

/// The acceptance of an opening handshake, from [`Server::on_handshake`](crate::Server::on_handshake).
///
/// Two are equal if they set the same. Of values that are [attached](Self::extension), only clones are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "only an `Accept` that `on_handshake` returns accepts a handshake"]
pub struct Accept {
    pub(crate) subprotocol: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) heartbeat: Option<HeartbeatPolicy>,
    pub(crate) takes_broadcasts: bool,
    /// A mistake waits here until `on_handshake` returns.
    pub(crate) user: Option<Result<UserName, InvalidUserName>>,
    pub(crate) attached: Attached,
    /// The compression that the server has agreed to.
    #[cfg(feature = "deflate")]
    pub(crate) agreed: Option<Agreed>,
}

impl Default for Accept {
    fn default() -> Self {
        Self {
            subprotocol: None,
            headers: Vec::new(),
            heartbeat: None,
            takes_broadcasts: true,
            user: None,
            attached: Attached::default(),
            #[cfg(feature = "deflate")]
            agreed: None,
        }
    }
}

impl Accept {
    /// Accepts with no subprotocol, no extra headers and the server's heartbeat.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses a subprotocol. It must be one that the client offered; any other is answered with 500 and logged as an
    /// error.
    pub fn subprotocol(mut self, subprotocol: impl Into<String>) -> Self {
        self.subprotocol = Some(subprotocol.into());
        self
    }

    /// Adds a header to the response, such as `Set-Cookie`. The headers of the handshake itself cannot be set: one of
    /// those is answered with 500 and logged as an error.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the heartbeat of this connection. Default: the [server's](crate::Server::heartbeat).
    pub fn heartbeat(mut self, policy: HeartbeatPolicy) -> Self {
        self.heartbeat = Some(policy);
        self
    }

    /// Excludes this connection from [broadcasts](crate::ServerHandle::broadcast). Default: it gets them.
    pub fn without_broadcasts(mut self) -> Self {
        self.takes_broadcasts = false;
        self
    }

    /// Says which user the connection belongs to, such as the account that a token names. Default: none.
    ///
    /// A user may have any number of connections. [`ServerHandle::send_to_user`](crate::ServerHandle::send_to_user) and
    /// [`close_user`](crate::ServerHandle::close_user) reach all of them. The name is in
    /// [`Connection::user`](crate::Connection::user), in the log and in all reports, and on the status page, so it
    /// should be no secret. The client does not learn it.
    ///
    /// A name has 1 to 256 bytes and no control characters; any other is answered with 500 and logged as an error.
    /// Names that differ in case are different.
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.user = Some(UserName::new(name.into()));
        self
    }

    /// Attaches a value to the connection, such as what a token or a session says. The handler finds it by its type:
    /// [`Connection::extension`](crate::Connection::extension). There is one value of each type; a further one replaces
    /// it.
    ///
    /// The connection's thread gives it back after the handler has returned and the connection has ended, or a
    /// [`Sender`](crate::Sender) or a clone of this `Accept` does that is dropped later. Its `Drop` may block and
    /// panic.
    ///
    /// ```
    /// # use heartwire::{Accept, Connection};
    /// struct Plan { messages_a_day: u32 }
    ///
    /// let accept = Accept::new().user("anna").extension(Plan { messages_a_day: 100 });
    ///
    /// fn limit(conn: &Connection) -> u32 {
    ///     conn.extension::<Plan>().map_or(10, |plan| plan.messages_a_day)
    /// }
    /// ```
    pub fn extension(mut self, value: impl Any + Send + Sync) -> Self {
        self.attached.attach(value);
        self
    }

    /// The user's name, if there is one.
    pub(crate) fn user_name(&self) -> Result<Option<UserName>, InvalidUserName> {
        self.user.clone().transpose()
    }

    /// Whether the client has agreed to send its heartbeat as text.
    pub(crate) fn has_text_heartbeat(&self) -> bool {
        self.subprotocol.as_deref() == Some(TEXT_HEARTBEAT) || self.has_topics()
    }

    /// Whether the client has agreed to the subprotocol of topics, which includes that of the heartbeat as text.
    pub(crate) fn has_topics(&self) -> bool {
        #[cfg(feature = "topics")]
        return self.subprotocol.as_deref() == Some(crate::topics::SUBPROTOCOL);
        #[cfg(not(feature = "topics"))]
        false
    }
}
