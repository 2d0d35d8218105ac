"""The RTP session of one call: what it accepts, counts and sends (RFC 3550).

RTPSession belongs to two threads: the SIP thread says where to send (`update`) and when to end
(`stop`); the RTP thread does the rest and closes the socket.
"""

import logging
import secrets
import socket
import sys
import threading
import time
from typing import Callable, Optional, Tuple

from rtp import HEADER, MAX_PACKET, RTPPacket, open_rtp_socket
from siprtp.agreement import NOTHING, Agreement
from siprtp.dtmf import FRAME, EventReader
from siprtp.media.arrival import arrival_of, enable_timestamps
from siprtp.media.echo import Echo
from siprtp.media.flow import STREAM_HOLD_UNITS, Flow
from siprtp.media.reports import Reports
from siprtp.media.rtcp import Reception
from siprtp.sockets import host_port

log = logging.getLogger(__name__)

# Keys reported in a second: gateways send ten at most, but delayed packets arrive together.
MAX_KEYS_PER_SECOND = 25
MANY_IGNORED = 50  # packets before a warning: RTP may arrive before the ACK that names its source
COMFORT_NOISE = 13  # payload type (RFC 3389), which gateways send without an agreement
MAX_EARLY = 1000  # packets from before the answer to drop at most; a socket holds about 300
MAX_PACKETS_PER_TICK = 250  # packets of a bot's call read in 20 ms; the rest waits for the next
FRESH_SECONDS = 0.020  # a packet younger than this is the last one waiting, most likely


def open_rtp_session(ip: str, start: int, end: int, first: Optional[int],
                     peer_ip: str) -> "RTPSession":
    """Return an RTPSession with a socket from open_rtp_socket, and RTCP on the next port if free.

    Raises OSError as open_rtp_socket does.
    """
    sock = open_rtp_socket(ip, start, end, first)
    port, rtcp_sock = sock.getsockname()[1] + 1, None
    try:
        if port <= end:
            rtcp_sock = open_rtp_socket(ip, port)
            enable_timestamps(rtcp_sock)
    except OSError as error:
        log.debug("port %d: no RTCP on port %d: %s", port - 1, port, error)
    return RTPSession(sock, peer_ip, rtcp_sock=rtcp_sock)


class RTPSession:
    """The RTP of one call.

    sock: bound, owned from now on. peer_ip: where the call's signalling comes from, "" if
    unknown; the SIP thread changes it if the caller moves. rtcp_sock: for reports, or None.
    on_key(key): called for each key pressed. name: what the log calls the call. One thread
    receives without blocking: by an Echo, or by `waiting`.
    """

    def __init__(self, sock: socket.socket, peer_ip: str = "", stop_event=None, rtcp_sock=None,
                 clock=time.monotonic):
        self.sock, self.peer_ip, self.clock = sock, peer_ip, clock
        self.port = sock.getsockname()[1]
        self.name = f"port {self.port}"  # until a call gives its own
        self.stop_event = stop_event or threading.Event()
        self.flow = Flow(NOTHING)
        self.reports = Reports(rtcp_sock)
        self.echo: Optional[Echo] = None  # the Echo that serves the session, if one does
        self.on_key: Optional[Callable[[str], None]] = None
        self.mute = False  # True: send echoed audio only, and no reports
        # (M PT, sequence, timestamp, SSRC) of the last packet received
        self.header = 0, 0, 0, 0
        self.ssrc, self.sequence = secrets.randbits(32), secrets.randbits(16)
        self.timestamp = secrets.randbits(32)  # of the next packet sent
        # a timestamp that was sent, and when it was sent first, in timestamp units of our clock
        self.last_sent = 0, 0
        self._received, self._packets_out, self._bytes_out = Reception(), 0, 0
        self._events = EventReader()
        self._keys_reported = 0, 0  # a second, and the keys reported in it
        self._last_arrival = 0  # of a packet that was accepted, in timestamp units
        self._counted_flow: Optional[Flow] = None  # the Flow whose packets are being counted
        self._has_thread = False  # a thread serves the session and closes the socket
        self._warned = False

    def __str__(self):
        return self.name

    def counts(self) -> Tuple[Reception, int, int]:
        """Return (Reception, packets sent, bytes of payload sent) of one moment."""
        echo = self.echo
        if echo:
            echo.settle()
        return self._received, self._packets_out, self._bytes_out

    @property
    def received(self) -> Reception:
        """What was received up to now."""
        return self.counts()[0]

    @property
    def packets_in(self) -> int:
        return self.received.packets

    @property
    def packets_out(self) -> int:
        return self.counts()[1]

    @property
    def bytes_out(self) -> int:
        """Bytes of payload sent (RFC 3550 6.4.1: the sender's octet count)."""
        return self.counts()[2]

    @property
    def round_trip(self) -> Optional[float]:
        """Seconds to the other side and back, by its last report, or None."""
        return self.reports.round_trip

    # SIP thread

    def update(self, agreement: Agreement) -> None:
        """Follow an agreement; if it equals the present one, nothing changes."""
        if agreement != self.flow.agreement:
            self.flow = Flow(agreement)
            echo = self.echo
            if echo:
                echo.interrupt()

    def start(self, thread, tick=None) -> None:
        """Let an RTPThread serve the session and close its socket in the end.

        It calls tick() every 20 ms or, without one, echoes. Raises RuntimeError or OSError if
        there can be no thread.
        """
        if tick:
            self._drop_early()
            enable_timestamps(self.sock)
            thread.tick(tick, self)
        else:
            echo = Echo(self)
            thread.read(echo)
            self.echo = echo
        self._has_thread = True

    def _drop_early(self):
        """Drop what arrived before the answer: the bot would hear it 200 ms late."""
        for _ in range(MAX_EARLY):
            try:
                self.sock.recv(MAX_PACKET)
            except ConnectionError:
                continue  # an ICMP error
            except OSError:
                return

    def stop(self) -> None:
        """End the session. Its thread closes the RTP socket; without a thread, this does."""
        self.stop_event.set()
        self.reports.close(self)
        if not self._has_thread:
            self.sock.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the socket is not connected; on Linux this wakes the poll all the same

    def report(self, now: float) -> None:
        """Read the RTCP reports that have arrived and send ours. now: seconds since 1970."""
        if not self.mute:
            self.reports.exchange(self, now)

    # RTP thread

    def waiting(self, buffer):
        """Yield (name of codec, SSRC, timestamp, payload) of each audio packet that waits."""
        now = time.time()
        for _ in range(MAX_PACKETS_PER_TICK):
            try:
                if sys.platform == "linux":
                    size, ancillary, _, source = self.sock.recvmsg_into([buffer], 64)
                else:
                    (size, source), ancillary = self.sock.recvfrom_into(buffer), ()
            except ConnectionError:
                continue  # an ICMP error of an earlier packet
            except OSError:
                return
            arrived = arrival_of(ancillary)
            size = self.take(buffer, size, source, int((arrived or self.clock()) * 8000))
            if size:
                second, _, timestamp, ssrc = self.header
                flow, kind = self.flow, second & 127
                name = flow.codec if kind == flow.audio else flow.others.get(kind)
                if name and ssrc != self.ssrc:
                    yield name, ssrc, timestamp, bytes(buffer[12:size])
                if arrived and now - arrived < FRESH_SECONDS:
                    return

    def count_run(self, count, size, head, shift, arrival, jitter):
        """Count a run of packets that were echoed, each with size bytes of payload.

        head: the first 8 bytes of the last, as a number; shift: from these to ours.
        """
        self._received.count_run(count, count * size, head, arrival, jitter)
        ours = head + shift
        self.sequence, self.timestamp = (ours >> 32) + 1 & 0xFFFF, (ours & 0xFFFFFFFF) + FRAME
        self.last_sent = ours & 0xFFFFFFFF, arrival
        self._last_arrival = arrival
        self._packets_out += count
        self._bytes_out += count * size

    def take(self, buffer, size: int, source, arrival: int) -> int:
        """Return the size of the packet in buffer if it belongs to the call, else 0.

        arrival: by any clock, in timestamp units. Padding, extension and CSRCs are removed.
        """
        flow = self.flow
        if not 12 <= size < MAX_PACKET or buffer[0] & 0xC0 != 0x80:
            return 0  # not RTP, or truncated
        _, second, sequence, timestamp, ssrc = HEADER.unpack_from(buffer)
        if 192 <= second < 224:
            return 0  # RTCP (RFC 5761 4)
        kind = second & 127
        # lenient: some gateways send keys with an SSRC of their own; and our own SSRC may loop
        if source != flow.source or (kind != flow.events and ssrc not in (flow.ssrc, self.ssrc)):
            continues = 0 <= arrival - self._last_arrival < STREAM_HOLD_UNITS
            if not flow.accept(source, ssrc, continues, self.peer_ip):
                self._warn_of_source(source, ssrc, flow)
                return 0
        if buffer[0] != 0x80:
            size = _strip(buffer, size)
            if not size:
                return 0
        if flow is not self._counted_flow:  # a gap in the sequence may be a hold, not a loss
            self._counted_flow = flow
            self._received.restart()
        self._last_arrival = arrival
        new = self._received.count(ssrc, sequence, timestamp, size - 12,
                                   arrival if kind == flow.audio else None)
        if not new or not flow.receiving:
            return 0
        if kind not in flow.formats:
            if kind != COMFORT_NOISE and self._ignores_many(flow):
                log.warning("%s: RTP to port %d is ignored: payload type %d was not agreed on",
                            self, self.port, kind)
            return 0
        self.header = second, sequence, timestamp, ssrc
        if kind == flow.events:
            self._take_event(buffer[12:size], arrival // 8000)
        return size

    def _take_event(self, payload, now):
        """Report the keys that an event in a packet with our `header` shows. now: seconds."""
        second, sequence, timestamp, ssrc = self.header
        for key in self._events.read(ssrc, sequence, second & 128 > 0, timestamp, payload):
            last, count = self._keys_reported
            count = count + 1 if now == last else 1
            self._keys_reported = now, count
            # each key costs the SIP thread work, and a log line
            if self.on_key and count <= MAX_KEYS_PER_SECOND:
                self.on_key(key)

    def _ignores_many(self, flow):
        """Count an ignored packet; return True once in a call, when it is time for a warning."""
        flow.ignored += 1
        if flow.ignored != MANY_IGNORED or not flow.remote or self._warned:
            return False
        self._warned = True
        return True

    def _warn_of_source(self, source, ssrc, flow):
        if self._ignores_many(flow):
            allowed = dict.fromkeys(ip for ip in (flow.remote[0], self.peer_ip) if ip)
            present = f", and {host_port(*flow.source[:2])} is sending" if flow.source else ""
            log.warning("%s: RTP to port %d from %s (SSRC %d) is ignored: the call's addresses "
                        "are %s%s", self, self.port, host_port(*source[:2]), ssrc,
                        " and ".join(allowed), present)

    def send(self, payload: bytes, units: int = FRAME, marker: bool = False,
             event: bool = False) -> None:
        """Send a packet in the agreed codec, or a telephone-event; drop it while on hold.

        units: how far the timestamp advances; with 0 the next packet has the same timestamp.
        """
        flow = self.flow
        received = flow.events if event else flow.audio
        kind = None if received is None else flow.formats.get(received)
        if kind is not None and not self.mute:
            self.transmit(RTPPacket(kind, self.sequence, self.timestamp, self.ssrc, payload,
                                    marker).serialize(), self.timestamp,
                          int(self.clock() * 8000))
        self.skip(units)

    def skip(self, units: int) -> None:
        """Advance the timestamp without sending."""
        self.timestamp = self.timestamp + units & 0xFFFFFFFF

    def transmit(self, data, timestamp: int, now: int) -> None:
        """Send the bytes of a packet numbered with `sequence`, unless the call is on hold.

        now: by our clock, in timestamp units.
        """
        flow = self.flow
        if not flow.sending:
            return
        try:
            self.sock.sendto(data, flow.target)
        except OSError as error:
            log.log(logging.DEBUG if flow.failed else logging.WARNING, "%s: RTP to %s not sent: %s",
                    self, host_port(*flow.target[:2]), error)
            flow.failed = True
            return
        self.sequence = self.sequence + 1 & 0xFFFF
        self._packets_out += 1
        self._bytes_out += len(data) - 12
        if timestamp != self.last_sent[0]:
            self.last_sent = timestamp, now


def _strip(buffer, size):
    """Rewrite the packet in buffer without padding, extension and CSRCs; return its size or 0."""
    try:
        data = RTPPacket.parse(memoryview(buffer)[:size]).serialize()
    except ValueError:
        return 0
    buffer[:len(data)] = data
    return len(data)
