//! What all threads of a connection share: its identity, its write half, its slot, its counters.
//!
//! The connection's own thread, every [`Sender`](crate::Sender), the drainer, the stand-in and the supervisor hold a
//! [`Shared`].
//!
//! Invariants: any of these threads may end the connection; the first cause stays; the connection is reported exactly
//! once.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

#[cfg(feature = "deflate")]
use crate::connection::deflating::Deflating;
use crate::connection::identity::{ConnectionId, Identity};
#[cfg(feature = "topics")]
use crate::connection::observer::Observed;
use crate::connection::pings::Pings;
use crate::connection::report::{CloseReport, ConnectionInfo, Traffic};
use crate::connection::slot::Slot;
use crate::connection::stats::ConnectionStats;
use crate::connection::user::UserName;
#[cfg(feature = "deflate")]
use crate::deflate::negotiation::Agreed;
use crate::http::request::{PeerCertificate, RequestTarget};
use crate::protocol::close::CloseReason;
use crate::protocol::frame::Role;
use crate::settings::Settings;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::transport::budget::BudgetShare;
use crate::transport::stream::Stream;
use crate::transport::write_half::{Figures, Owner, WriteHalf};

pub(crate) struct Shared {
    pub(crate) identity: Identity,
    /// Whom it belongs to, if the application has said so.
    pub(crate) user: Option<UserName>,
    pub(crate) target: RequestTarget,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there is none then"))]
    certificate: PeerCertificate,
    /// `None` if no compression was agreed.
    #[cfg(feature = "deflate")]
    pub(crate) deflating: Option<Box<Deflating>>,
    pub(crate) settings: Arc<Settings>,
    /// Whether the connection receives broadcasts.
    pub(crate) takes_broadcasts: bool,
    /// Whether the supervisor has reported it closed, and only its thread has not ended yet. The supervisor's alone;
    /// here it costs no memory.
    pub(crate) is_reported: AtomicBool,
    pub(crate) write_half: WriteHalf<Self>,
    pub(super) slot: Slot,
    pub(super) pings: Pings,
    pub(crate) stats: ConnectionStats,
    pub(super) supervisor: Arc<SupervisorHandle>,
    #[cfg(feature = "topics")]
    pub(super) observed: Observed,
}

/// The parts of a new [`Shared`].
pub(crate) struct NewConnection {
    pub(crate) role: Role,
    pub(crate) identity: Identity,
    pub(crate) user: Option<UserName>,
    pub(crate) target: RequestTarget,
    pub(crate) certificate: PeerCertificate,
    #[cfg(feature = "deflate")]
    pub(crate) agreed: Option<Agreed>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) takes_broadcasts: bool,
    /// Whether it is sent frames that were encoded, and maybe compressed, for many connections.
    #[cfg_attr(not(feature = "deflate"), allow(dead_code, reason = "all are sent the same then"))]
    pub(crate) shares_frames: bool,
    pub(crate) supervisor: Arc<SupervisorHandle>,
}

impl Shared {
    pub(crate) fn new(new: NewConnection) -> Self {
        let NewConnection {
            role,
            identity,
            user,
            target,
            certificate,
            stream,
            settings,
            takes_broadcasts,
            supervisor,
            ..
        } = new;
        let opened = Instant::now();
        let budget = &supervisor.buffered;
        Self {
            identity,
            user,
            target,
            certificate,
            #[cfg(feature = "deflate")]
            deflating: settings
                .compression
                .as_ref()
                .zip(new.agreed)
                .map(|(compression, agreed)| Box::new(Deflating::new(compression, &agreed, role, new.shares_frames))),
            takes_broadcasts,
            is_reported: AtomicBool::new(false),
            write_half: WriteHalf::new(role, stream, settings.queue_size, budget, settings.close_timeout),
            slot: Slot::new(opened),
            pings: Pings::default(),
            stats: ConnectionStats::new(opened),
            settings,
            supervisor,
            #[cfg(feature = "topics")]
            observed: Observed::default(),
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.identity.id
    }

    /// The name of the user whom it belongs to.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_ref().map(UserName::as_str)
    }

    /// The extensions in use. Empty if there are none.
    pub(crate) fn extensions(&self) -> &str {
        #[cfg(feature = "deflate")]
        if let Some(deflating) = &self.deflating {
            return &deflating.extensions;
        }
        ""
    }

    /// A new share of the memory budget of all connections together.
    pub(crate) fn share(&self) -> BudgetShare {
        BudgetShare::new(&self.supervisor.buffered)
    }

    fn traffic(&self, figures: &Figures) -> Traffic {
        Traffic {
            messages_in: self.stats.messages_in(),
            messages_out: figures.messages,
            bytes_in: self.stats.bytes_in(),
            bytes_out: figures.bytes,
            dropped: self.stats.broadcasts_dropped(),
            unsent: figures.unsent as u64,
        }
    }

    /// The report of a connection that has ended. The supervisor makes it if the first report was lost.
    pub(crate) fn last_report(&self) -> CloseReport {
        self.report(self.write_half.figures())
    }

    pub(super) fn report(&self, figures: Figures) -> CloseReport {
        let (pings, pongs, round_trip) = self.pings.figures();
        CloseReport {
            id: self.id(),
            peer_addr: self.identity.remote.peer_addr,
            remote_ip: self.identity.remote.remote_ip,
            user: self.user().map(str::to_owned),
            path: self.target.path().to_owned(),
            target: self.target.clone(),
            #[cfg(feature = "tls")]
            client_certificate: self.certificate.certificate.clone(),
            extensions: self.extensions().to_owned(),
            traffic: self.traffic(&figures),
            reason: figures.reason,
            sent: figures.sent,
            received: figures.received,
            missed: self.stats.missed(),
            round_trip,
            pings,
            pongs,
            age: self.stats.opened.elapsed(),
        }
    }

    /// A snapshot of the connection.
    pub(crate) fn info(&self) -> ConnectionInfo {
        let now = Instant::now();
        let age = now.saturating_duration_since(self.stats.opened);
        let figures = self.write_half.figures();
        let (pings, pongs, round_trip) = self.pings.figures();
        ConnectionInfo {
            id: self.id(),
            peer_addr: self.identity.remote.peer_addr,
            remote_ip: self.identity.remote.remote_ip,
            user: self.user().map(str::to_owned),
            path: self.target.path().to_owned(),
            target: self.target.clone(),
            #[cfg(feature = "tls")]
            client_certificate: self.certificate.certificate.clone(),
            extensions: self.extensions().to_owned(),
            age,
            silent: age.saturating_sub(self.stats.heard_after()),
            missed: self.stats.missed(),
            max_missed: self.stats.max_missed(),
            round_trip,
            pings,
            pongs,
            traffic: self.traffic(&figures),
            queued: figures.queued,
            away: self.away_for(now),
        }
    }
}

impl Owner for Shared {
    type Socket = Stream;

    fn write_half(&self) -> &WriteHalf<Self> {
        &self.write_half
    }

    fn start_thread(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let builder =
            thread::Builder::new().name(format!("heartwire-drain-{}", self.id())).stack_size(self.settings.stack_size);
        builder.spawn(run).map(drop)
    }

    /// Only notifies the supervisor. The peer's Close frame may still be unread in the socket, so the thread that reads
    /// decides on the cause.
    fn write_failed(&self, error: &io::Error) {
        self.supervisor.notify(Notice::WriteFailed { connection: self.identity, error: error.to_string() });
    }

    fn abort(&self, reason: CloseReason) {
        self.abort(reason);
    }

    fn queue_emptied(&self) {
        #[cfg(feature = "topics")]
        self.tell_queue_emptied();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("identity", &self.identity).finish_non_exhaustive()
    }
}
