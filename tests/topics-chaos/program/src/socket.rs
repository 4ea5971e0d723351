//! A TCP stream that another thread can end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

#[derive(Debug, Clone)]
pub(crate) struct Socket(pub(crate) Arc<TcpStream>);

/// Ends a stream by a reset, which goes out when the last who has the stream drops it. Whoever reads is woken.
pub(crate) fn reset(stream: &TcpStream) {
    // Both fail only if it has ended already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Read);
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
