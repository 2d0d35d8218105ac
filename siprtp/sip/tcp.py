"""SIP over TCP: framing and connections, without looking into the messages.

Each connection has a thread that reads. Sending never waits for a peer that does not read.
"""

import logging
import re
import socket
import threading
import time

from siprtp.sockets import DSCP_SIP, host_port, network, open_socket, set_dscp, wake_every

log = logging.getLogger(__name__)

MAX_MESSAGE = 65535  # bytes, as much as a datagram
# Connections at most: in total; of unverified peers; per known peer; per unverified peer. The
# first and the last also limit the connections that we open.
MAX_CONNECTIONS, MAX_UNVERIFIED, MAX_PER_KNOWN, MAX_PER_PEER = 500, 250, 250, 100
MAX_UNREAD = 8  # messages of one connection that wait for the SIP thread
HALF_SECONDS = 32  # 64*T1: time for a message to arrive whole, and for the first one to arrive
UNSENT = 1 << 18  # bytes on their way to a distant peer: what 200 calls at once get
CONNECT_SECONDS = 5  # for the connections that we open
FLOOD_SECONDS = 1  # pause between two reads of a connection that exceeds the rate limit
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
CONTENT_LENGTH = re.compile(  # with its value, which may stand on lines of its own
    rb"^(?:content-length|l)[ \t]*:((?:[^\n]|\n[ \t])*)$", re.IGNORECASE | re.MULTILINE)
LENGTH = re.compile(rb"[0-9]{1,9}")


class FramingError(ValueError):
    """The stream cannot be cut into messages. `head`: a head that can still be answered, or b""."""

    def __init__(self, reason, head=b""):
        super().__init__(reason)
        self.head = head


class Framer:
    """Cuts a stream of bytes into SIP messages by their Content-Length (RFC 3261 18.3)."""

    def __init__(self):
        self._buffer = bytearray()
        self._searched = 0  # bytes without a blank line
        self._end = 0  # of the message, once its head is complete

    @property
    def half(self):
        """True while a message has begun and is not complete."""
        return bool(self._buffer.strip(b"\r\n"))

    def feed(self, data):
        """Yield each message (bytes) that data completes, b"" for a keepalive of two CRLFs.

        Raises FramingError; the rest of the stream cannot be read then.
        """
        self._buffer += data
        while self._buffer:
            if self._buffer[:4] == b"\r\n\r\n":
                del self._buffer[:4]
                yield b""  # RFC 5626 3.5.1
                continue
            if self._buffer[0] in b"\r\n":
                if len(self._buffer) < 4 and not self._buffer.strip(b"\r\n"):
                    return  # perhaps the first half of a keepalive
                del self._buffer[0]
                continue
            if not self._end and not self._find_end():
                return
            if len(self._buffer) < self._end:
                return
            message = bytes(self._buffer[:self._end])
            del self._buffer[:self._end]
            self._searched = self._end = 0
            yield message

    def _find_end(self):
        match = BLANK_LINE.search(self._buffer, max(0, self._searched - 3))
        self._searched = len(self._buffer)
        if match is None:
            if self._searched > MAX_MESSAGE:
                raise FramingError("headers without end")
            return False
        head = bytes(self._buffer[:match.end()])
        lengths = {value.strip() for value in CONTENT_LENGTH.findall(head)}
        if not lengths:
            raise FramingError("no Content-Length", head)
        length = lengths.pop()
        if lengths or not LENGTH.fullmatch(length):  # the end of the message is unknown
            raise FramingError("conflicting or malformed Content-Length", head)
        self._end = match.end() + int(length)
        if self._end > MAX_MESSAGE:
            raise FramingError("message too large", head)
        return True


def tune(sock):
    """Set the options of a TCP socket for SIP. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds peers that are gone
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # send a 200 right behind its 100
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
    set_dscp(sock, DSCP_SIP)


class Connection:
    """One TCP connection and the thread that reads it.

    address: the peer's (ip, port). sock: connected, or None to connect to address first, from the
    IP `here` if that is given. The thread calls on_message(data, connection), and at last
    on_end(connection); the receiver calls `taken()` once it is done with a message. flooding: the
    peer exceeds the rate limit, so its messages wait.
    """

    def __init__(self, address, on_message, on_end, sock=None, here=None):
        self.address, self.name, self._sock = address, host_port(*address), sock
        self._here, self._unread = here, threading.Semaphore(MAX_UNREAD)
        self.network, self.accepted = network(address[0]), sock is not None
        self._on_message, self._on_end = on_message, on_end
        self._lock = threading.Lock()  # guards _sock and _pending
        self._pending = [] if sock is None else None  # None once connected
        self.open, self.flooding = True, False

    def start(self):
        """Begin to read. Raises RuntimeError if there can be no thread."""
        threading.Thread(target=self._run, daemon=True, name=f"tcp-{self.address[0]}").start()

    def send(self, data):
        """Send a message now, or once connected; return False if the connection is gone.

        The connection of a peer that does not read is closed.
        """
        with self._lock:
            if not self.open:
                return False
            if self._pending is not None:
                self._pending.append(data)
                return True
            try:
                if self._sock.send(data, getattr(socket, "MSG_DONTWAIT", 0)) == len(data):
                    return True
                reason = "the peer does not read"
            except OSError as error:
                reason = error
        log.warning("connection with %s closed: %s", self.name, reason)
        self.stop()
        return False

    def taken(self):
        """Let the thread read on: a message has been dealt with."""
        self._unread.release()

    def stop(self):
        """Stop sending and reading: the thread wakes and ends."""
        with self._lock:
            self.open = False
            try:
                if self._sock is not None:
                    self._sock.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("connection with %s: %s", self.name, error)

    def close(self):
        """Close the socket, once the thread has ended."""
        with self._lock:
            self.open = False
            if self._sock is not None:
                self._sock.close()

    def _run(self):
        try:
            if self._sock is None:
                self._connect()
            self._read()
        except OSError as error:
            log.warning("connection with %s: %s", self.name, error)
        except FramingError as error:
            log.warning("connection with %s: %s", self.name, error)
            if error.head:
                self._pass_on(error.head)  # for a 400
        finally:
            self._on_end(self)

    def _connect(self):
        sock = socket.create_connection(self.address, CONNECT_SECONDS,
                                        (self._here, 0) if self._here else None)
        sock.settimeout(None)
        tune(sock)
        with self._lock:
            self._sock, pending, self._pending = sock, self._pending, None
        for data in pending:
            self.send(data)

    def _pass_on(self, message):
        if self.flooding:
            time.sleep(FLOOD_SECONDS)
        while self.open and not self._unread.acquire(timeout=1):
            pass  # enough messages of this peer wait for the SIP thread
        self._on_message(message, self)

    def _read(self):
        wake_every(self._sock, HALF_SECONDS / 4)
        framer, deadline = Framer(), time.monotonic() + HALF_SECONDS
        while self.open:
            try:
                data = self._sock.recv(65536)
                if not data:
                    return
            except (BlockingIOError, socket.timeout):
                data = b""
            for message in framer.feed(data):
                if message:
                    deadline = None  # the peer speaks SIP, and may be idle for hours
                self._pass_on(message)
            if framer.half and deadline is None:
                deadline = time.monotonic() + HALF_SECONDS
            elif deadline is not None and time.monotonic() > deadline:
                raise FramingError(f"no whole message within {HALF_SECONDS} s")


class TCPTransport:
    """Every TCP connection, and the listening socket.

    post(function, *args): calls it in the SIP thread. receive(data, address, connection): takes a
    message there, and returns False if it is one too many. admission: an Admission, for connections
    and keepalives. All methods belong to the SIP thread.
    """

    def __init__(self, post, receive, admission):
        self._post, self._receive, self._admission = post, receive, admission
        self._listener, self._connections, self._here = None, {}, None
        self._closing = threading.Event()

    def __len__(self):
        return len(self._connections)

    def listen(self, ip, port):
        """Listen at ip:port and accept connections in a thread. Raises OSError, RuntimeError."""
        self._here = None if ip in ("0.0.0.0", "::") else ip
        self._listener = open_socket(ip, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((ip, port))
            self._listener.listen(128)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True,
                             name="tcp-listener").start()
        except (OSError, RuntimeError):
            self._listener.close()
            raise

    def send(self, data, hop):
        """Send over a TCPHop's connection, or one to its address; open one if there is none."""
        for connection in (hop.connection, self._connections.get((hop.ip, hop.port))):
            if connection is not None and connection.send(data):
                return
        connection = self._begin((hop.ip, hop.port), None)
        if connection:
            connection.send(data)

    def close(self):
        """Stop listening and end every connection."""
        self._closing.set()
        if self._listener is not None:
            try:
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            except OSError as error:
                log.debug("listener: %s", error)
            self._listener.close()
        for connection in self._connections.values():
            connection.stop()

    def _accept(self, listener):
        failing = False
        while not self._closing.is_set():
            try:
                sock, address = listener.accept()
                failing = False
            except OSError as error:
                if self._closing.is_set():
                    return
                log.log(logging.DEBUG if failing else logging.WARNING,
                        "cannot accept TCP connections: %s", error)
                failing = True
                self._closing.wait(0.1)  # perhaps out of descriptors: do not retry at full speed
                continue
            self._post(self._take_connection, address[:2], sock)

    def _take_connection(self, address, sock):
        if not self._admission.admits(address, 0, tcp=True):
            sock.close()
            return
        known, whose = self._admission.is_known(address[0]), network(address[0])
        accepted = [one.network for one in self._connections.values() if one.accepted]
        of_one = accepted.count(whose)
        if (len(accepted) >= (MAX_CONNECTIONS if known else MAX_UNVERIFIED)
                or of_one >= (MAX_PER_KNOWN if known else MAX_PER_PEER)):
            log.warning("connection from %s closed: %d are open, %d of them from this peer",
                        host_port(*address), len(accepted), of_one)
            sock.close()
        else:
            self._begin(address, sock)

    def _begin(self, address, sock):
        connection = Connection(address, self._on_message, self._on_end, sock, self._here)
        try:
            if sock is not None:
                tune(sock)
            else:
                ours = [one.network for one in self._connections.values() if not one.accepted]
                if len(ours) >= MAX_CONNECTIONS or ours.count(connection.network) >= MAX_PER_PEER:
                    raise RuntimeError(f"{len(ours)} connections of ours are open")
            log.log(logging.INFO if sock else logging.DEBUG, "connection with %s: %s",
                    connection.name, "accepted" if sock else "opening")
            connection.start()
        except (OSError, RuntimeError) as error:
            log.warning("no connection with %s: %s", connection.name, error)
            connection.close()
            return None
        self._connections[address] = connection
        return connection

    def _on_message(self, data, connection):
        self._post(self._take, data, connection)

    def _take(self, data, connection):
        try:
            if data:
                heard = self._receive(data, connection.address, connection)
            else:
                heard = self._admission.admits(connection.address, 0, tcp=True)
                heard = heard and connection.send(b"\r\n")
            connection.flooding = not heard
        finally:
            connection.taken()

    def _on_end(self, connection):
        if self._closing.is_set():
            connection.close()
        else:
            self._post(self._end, connection)  # after its messages, so that their responses get out

    def _end(self, connection):
        connection.close()
        log.debug("connection with %s: closed", connection.name)
        if self._connections.get(connection.address) is connection:
            del self._connections[connection.address]
