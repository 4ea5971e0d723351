"""A relay between a program that knows no TLS and one that speaks it: bytes stay as they are, in both directions, and
the end of one connection is the end of the other."""

import asyncio
import ssl
import threading

import heartwire

# Of one read, and of what waits on one connection before its other end is held up.
CHUNK = 1 << 16


class Relay:
    """Listens on a port of its own, for connections to `address`. With `accept`, a context, it is the server of TLS;
    with `connect` it is the client, and expects a certificate for localhost."""

    def __init__(self, address, accept=None, connect=None):
        host, _, port = address.rpartition(":")
        name = "localhost" if connect else None
        self.far = {"host": host, "port": int(port), "ssl": connect, "server_hostname": name, "limit": CHUNK}
        self.accept = accept
        # Connections, and what went wrong on single ones.
        self.count = 0
        self.failures = []
        self.joined = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        listening = asyncio.start_server(self._join, "127.0.0.1", 0, ssl=self.accept, limit=CHUNK)
        self.listener = asyncio.run_coroutine_threadsafe(listening, self.loop).result(30)
        self.address = "127.0.0.1:%d" % self.listener.sockets[0].getsockname()[1]
        return self

    def check(self):
        """There must have been connections, and each has reached the other side."""
        if self.failures or not self.count:
            raise heartwire.Wrong(f"the relay had {self.count} connections, and these failures: {self.failures}")

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)

    async def _end(self):
        self.listener.close()
        for task in self.joined:
            task.cancel()
        await asyncio.gather(*self.joined, return_exceptions=True)

    def watch(self):
        """What chunks of a new connection go through: from near to far, and back."""
        return (lambda chunk: chunk), (lambda chunk: chunk)

    async def _join(self, near_reader, near_writer):
        self.count += 1
        self.joined.add(asyncio.current_task())
        try:
            far_reader, far_writer = await asyncio.open_connection(**self.far)
            try:
                there, back = self.watch()
                ways = [carry(near_reader, far_writer, there), carry(far_reader, near_writer, back)]
                await asyncio.gather(*ways)
            finally:
                far_writer.close()
        except OSError as error:
            self.failures.append(repr(error))
        except asyncio.CancelledError:
            # By `_end`. What asyncio does when a connection's task is over fails if it was cancelled.
            pass
        finally:
            near_writer.close()
            self.joined.discard(asyncio.current_task())


async def carry(reader, writer, through):
    """Passes on what comes, until there is no more."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(through(chunk))
            await writer.drain()
    except ConnectionError:
        # An end that goes away while somebody still writes to it is no failure of ours.
        pass
    except ssl.SSLError as error:
        # Nor is it what still comes from an end that was told of the other's end.
        if error.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
            raise
    # What was written before goes out.
    writer.close()
