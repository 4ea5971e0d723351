//! A cable that anybody can pull, without root: the peer's kernel drops every packet that arrives for its socket.
//!
//! The socket demands a time to live of 255 (`IP_MINTTL`, for the TTL security of RFC 5082). Packets on one machine are
//! sent with 64, so all are dropped before TCP sees them: nothing reaches the program, and nothing is acknowledged. The
//! other end sees what it would see of a cable that was pulled, as long as the peer sends nothing itself.

use std::io;
use std::net::TcpStream;

#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::{setsockopt_impl, sockopt_impl};

#[cfg(any(target_os = "linux", target_os = "android"))]
sockopt_impl!(
    /// The least time to live of packets that are let in. Zero lets all in.
    MinTtl, SetOnly, libc::IPPROTO_IP, libc::IP_MINTTL, i32
);

/// Pulls the peer's cable.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn pull(peer: &TcpStream) -> io::Result<()> {
    Ok(nix::sys::socket::setsockopt(peer, MinTtl, &255)?)
}

/// Puts the cable back.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn put_back(peer: &TcpStream) -> io::Result<()> {
    Ok(nix::sys::socket::setsockopt(peer, MinTtl, &0)?)
}

/// Does nothing: other systems have no such option. A peer that reads and writes nothing looks the same to the other
/// program, but its kernel goes on acknowledging.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pull(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Does nothing, as [`pull`].
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn put_back(_: &TcpStream) -> io::Result<()> {
    Ok(())
}
