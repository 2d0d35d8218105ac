"""The RTP session of one call: what it accepts, counts, reports and sends (RFC 3550).

RTPSession belongs to two threads: the SIP thread says where to send (`update`) and when to end
(`stop`); the RTP thread does the rest and closes the socket.
"""

import logging
import secrets
import socket
import struct
import sys
import threading
import time

from rtp import HEADER, MAX_PACKET, RTPPacket, open_rtp_socket
from siprtp.agreement import NOTHING
from siprtp.dtmf import FRAME, EventReader
from siprtp.media import rtcp
from siprtp.media.echo import Echo
from siprtp.sockets import host_port

log = logging.getLogger(__name__)

KEYS = 25  # told in a second: gateways send ten at most, but what was held up comes at once
MANY_IGNORED = 50  # packets: RTP may come before the ACK that tells whose it is
COMFORT_NOISE = 13  # payload type (RFC 3389), sent by gateways unasked
HOLD = 800  # timestamp units, 100 ms: how long a stream keeps the call after its last packet
FLOOD = 250  # packets of a bot's call in 20 ms: more are left for the next
SO_TIMESTAMP, TIMEVAL = 29, struct.Struct("@ll")  # of Linux; Python has no name for it
FRESH = 0.020  # seconds


def open_rtp_session(ip, start, end, first, peer_ip):
    """Return an RTPSession as of open_rtp_socket, with RTCP on the next port if that is free."""
    sock = open_rtp_socket(ip, start, end, first)
    port, rtcp_sock = sock.getsockname()[1] + 1, None
    try:
        if port <= end:
            rtcp_sock = open_rtp_socket(ip, port)
            if sys.platform == "linux":
                rtcp_sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    except OSError as error:
        log.debug("no RTCP on port %d: %s", port, error)
    return RTPSession(sock, peer_ip, rtcp_sock=rtcp_sock)


def arrival_of(ancillary):
    """Return when a datagram came, by the kernel's clock in seconds since 1970, or None."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMP and len(data) == TIMEVAL.size:
            seconds, microseconds = TIMEVAL.unpack(data)
            return seconds + microseconds / 1e6
    return None


class Flow:
    """Where a session's packets go and come from; replaced as a whole when that changes."""

    def __init__(self, agreement):
        self.agreement = agreement
        (self.remote, self.formats, self.sending, self.receiving, self.codec, self.rtcp,
         self.events, self.others) = agreement
        self.audio = next(iter(self.formats), None)  # the payload type of the codec
        # of the stream we hear: the last (ip, port) found good, its SSRC; RTP thread only
        self.source = self.ssrc = None
        self.target = self.remote
        self.ignored = 0  # packets that were not taken
        self.failed = False  # some could not be sent

    def accept(self, source, ssrc, live, peer_ip):
        """Say whether another stream is the call's from now on; follow a caller behind NAT.

        Good are the IP of the description, any port (music on hold comes from another), and the
        IP that signals: where that differs from the description and sends, it is a NAT's. live:
        the stream we have goes on. Then nobody takes its place but who was described, or whoever
        knows or shares the call's IP could break in.
        """
        described = self.remote is not None and source[0] == self.remote[0]
        if not described and source[0] != peer_ip:
            return False
        if live and self.source and (source != self.remote or self.source == self.remote):
            return False
        self.source, self.ssrc = source, ssrc
        self.target = self.remote if described or self.remote is None else source
        return True


class RTPSession:
    """The RTP of one call.

    sock: bound, owned from now on. peer_ip: where the call's signalling comes from, "" if
    unknown. rtcp_sock: for reports, or None; the SIP thread's alone. on_key(key): for each key
    pressed. One thread receives, and does not block: in an Echo, or by `waiting`.
    """

    def __init__(self, sock, peer_ip="", stop_event=None, rtcp_sock=None, clock=time.monotonic):
        self.sock, self.peer_ip = sock, peer_ip
        self._rtcp, self._clock = rtcp_sock, clock
        self.port = sock.getsockname()[1]
        self.stop_event = stop_event or threading.Event()
        self.flow = Flow(NOTHING)
        self._received, self._packets_out, self._octets_out = rtcp.Reception(), 0, 0
        self.echo = None  # while one is served
        self.round_trip = None  # seconds, from the other side's reports
        self.on_key = None
        self._events, self._told = EventReader(), (0, 0)  # a second; the keys told in it
        self._last_sr = 0, 0, 0.0  # (SSRC, middle of its NTP time, when it came by our clock)
        self._came = 0  # when the last packet that was taken came, timestamp units
        self._sent = 0, 0  # a timestamp that was sent; when it was first, in timestamp units
        self._counted = None  # the Flow whose packets are being counted
        self._introduced = False  # some report has been sent
        self._reported = 0, 0  # (packets in, packets out) at the last report
        self._cname = secrets.token_hex(8)
        self.header = None  # (M PT, sequence, timestamp, SSRC) of the last packet received
        self.ssrc, self.sequence = secrets.randbits(32), secrets.randbits(16)
        self.timestamp = secrets.randbits(32)  # of the next packet sent
        self._served = False  # by a thread, which closes the socket
        self._warned = False
        self.mute = False  # True: nothing is said but what is echoed

    def _settle(self):
        echo = self.echo
        if echo:
            echo.settle()

    @property
    def received(self):
        """The rtcp.Reception, up to now."""
        self._settle()
        return self._received

    @property
    def packets_in(self):
        return self.received.packets

    @property
    def packets_out(self):
        self._settle()
        return self._packets_out

    @property
    def octets_out(self):
        self._settle()
        return self._octets_out

    # SIP thread

    def update(self, agreement):
        """Go on as an sdp.Agreement says; one that says nothing new disturbs nothing."""
        if agreement != self.flow.agreement:
            self.flow = Flow(agreement)
            echo = self.echo
            if echo:
                echo.interrupt()

    def start(self, thread, tick=None):
        """Be served by an RTPThread, which closes the socket: by tick, every 20 ms, or the echo.

        Raises RuntimeError or OSError if no thread can be had.
        """
        if tick:
            if sys.platform == "linux":
                self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
            thread.tick(tick)
        else:
            echo = Echo(self)
            thread.read(echo)
            self.echo = echo
        self._served = True

    def stop(self):
        """End the session: its thread closes the socket, or this does where none was started."""
        self.stop_event.set()
        if self._rtcp is not None:
            if self._introduced or (self.packets_out and not self.mute):  # RFC 3550 6.3.7
                self._send_rtcp(rtcp.goodbye(self.ssrc, self._cname, *self._news(time.time())))
            self._rtcp.close()
            self._rtcp = None
        if not self._served:
            self.sock.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # Linux wakes who polls an unconnected socket all the same

    def report(self, now):
        """Read the reports that came and send ours (RFC 3550 6); now: seconds since 1970."""
        if self._rtcp is None or self.mute:
            return
        self._read_reports(now)
        self._introduced = True
        self._send_rtcp(rtcp.report(self.ssrc, self._cname, *self._news(now)))

    def _news(self, now):
        """Return what was sent and received since the last report, as rtcp.report takes them."""
        received = self.received
        packets = received.packets, self._packets_out
        sender = block = None
        if packets[1] > self._reported[1]:
            timestamp, when = self._sent
            timestamp += int(self._clock() * 8000) - when
            sender = (rtcp.ntp(now), timestamp & 0xFFFFFFFF, packets[1],
                      self._octets_out & 0xFFFFFFFF)
        if packets[0] > self._reported[0] and received.ssrc is not None:
            ssrc, last_sr, came = self._last_sr
            last_sr = last_sr if ssrc == received.ssrc else 0
            delay = int((self._clock() - came) * 65536) & 0xFFFFFFFF if last_sr else 0
            block = received.block(last_sr, delay)
        self._reported = packets
        return sender, block

    def _send_rtcp(self, data):
        try:
            if self.flow.rtcp:
                self._rtcp.sendto(data, self.flow.rtcp)
        except OSError as error:
            log.debug("RTCP to %s not sent: %s", host_port(*self.flow.rtcp), error)

    def _read_reports(self, now):
        ours = {self.peer_ip, *(at[0] for at in (self.flow.rtcp, self.flow.remote) if at)}
        for _ in range(20):  # more would be a flood
            try:
                data, ancillary, _, source = self._rtcp.recvmsg(2048, 64)
            except (OSError, AttributeError):
                return  # no more, or a system without recvmsg
            try:
                if source[0] in ours:
                    self._take_report(*rtcp.parse(data), arrival_of(ancillary), now)
            except ValueError as error:
                log.debug("RTCP from %s ignored: %s", host_port(*source[:2]), error)

    def _take_report(self, sent, blocks, came, now):
        if came is None:
            return  # without the time it came there is nothing to measure
        if sent is not None:  # the time of day may jump until we refer to it
            self._last_sr = sent[0], sent[1] >> 16 & 0xFFFFFFFF, self._clock() - (now - came)
        for block in blocks:
            if block.ssrc == self.ssrc and block.last_sr:
                took = (rtcp.ntp(came) >> 16) - block.last_sr - block.delay & 0xFFFFFFFF
                if took < 60 * 65536:  # more is one of the clocks
                    self.round_trip = took / 65536

    # RTP thread

    def waiting(self, buffer):
        """Yield (name of codec, SSRC, timestamp, payload) of each packet of audio that is there."""
        now = time.time()
        for _ in range(FLOOD):
            try:
                if sys.platform == "linux":
                    size, ancillary, _, source = self.sock.recvmsg_into([buffer], 64)
                else:
                    (size, source), ancillary = self.sock.recvfrom_into(buffer), ()
            except ConnectionError:
                continue  # an ICMP error of an earlier packet
            except OSError:
                return
            came = arrival_of(ancillary)
            size = self.take(buffer, size, source, int((came or self._clock()) * 8000))
            if size:
                second, _, timestamp, ssrc = self.header
                flow, kind = self.flow, second & 127
                name = flow.codec if kind == flow.audio else flow.others.get(kind)
                if name and ssrc != self.ssrc:
                    yield name, ssrc, timestamp, bytes(buffer[12:size])
                if came and now - came < FRESH:
                    return  # it has just come: no other waits, or not for long

    def count_run(self, count, octets, head, shift, came, jitter):
        """Count packets of so many octets that were echoed in a run; head: of the last."""
        self._received.follow(count, count * octets, head, came, jitter)
        ours = head + shift
        self.sequence, self.timestamp = (ours >> 32) + 1 & 0xFFFF, (ours & 0xFFFFFFFF) + FRAME
        self._sent = ours & 0xFFFFFFFF, came
        self._came = came
        self._packets_out += count
        self._octets_out += count * octets

    def take(self, buffer, size, source, arrival):
        """Return the size of the packet in buffer if it is the call's, else 0.

        arrival: by some clock, in timestamp units.
        """
        flow = self.flow
        if not 12 <= size < MAX_PACKET or buffer[0] & 0xC0 != 0x80:
            return 0  # not RTP, or cut
        _, second, sequence, timestamp, ssrc = HEADER.unpack_from(buffer)
        if 192 <= second < 224:
            return 0  # RTCP (RFC 5761 4)
        kind = second & 127
        # lenient: some gateways number keys as a stream of their own; and ours may loop
        if source != flow.source or (kind != flow.events and ssrc not in (flow.ssrc, self.ssrc)):
            live = 0 <= arrival - self._came < HOLD
            if not flow.accept(source, ssrc, live, self.peer_ip):
                self._warn_of(source, ssrc, flow)
                return 0
        if buffer[0] != 0x80:
            size = _strip(buffer, size)
            if not size:
                return 0
        if flow is not self._counted:  # on hold nothing may have come, and nothing is lost
            self._counted = flow
            self._received.begin_anew()
        self._came = arrival
        new = self._received.count(ssrc, sequence, timestamp, size - 12,
                                   arrival if kind == flow.audio else None)
        if not new or not flow.receiving:
            return 0
        if kind not in flow.formats:
            if kind != COMFORT_NOISE and self._ignores_many(flow):
                log.warning("RTP to port %d is ignored: payload type %d was not agreed on",
                            self.port, kind)
            return 0
        self.header = second, sequence, timestamp, ssrc
        if kind == flow.events:
            self._take_event(ssrc, timestamp, buffer[12:size], arrival // 8000)
        return size

    def _take_event(self, ssrc, timestamp, payload, second):
        key, on_key = self._events.read(ssrc, timestamp, payload), self.on_key
        if not key or not on_key:
            return
        last, count = self._told
        self._told = second, count + 1 if second == last else 1
        if self._told[1] <= KEYS:  # each is work for the SIP thread, and a line of the log
            on_key(key)

    def _ignores_many(self, flow):
        """Count a packet that is not taken; say, once in a call, when they are many."""
        flow.ignored += 1
        if flow.ignored != MANY_IGNORED or not flow.remote or self._warned:
            return False
        self._warned = True
        return True

    def _warn_of(self, source, ssrc, flow):
        if self._ignores_many(flow):
            good = dict.fromkeys(ip for ip in (flow.remote[0], self.peer_ip) if ip)
            heard = f", and {host_port(*flow.source[:2])} is heard" if flow.source else ""
            log.warning("RTP to port %d from %s (SSRC %d) is ignored: the call's addresses are "
                        "%s%s", self.port, host_port(*source[:2]), ssrc, " and ".join(good), heard)

    def send(self, payload, units=FRAME, marker=False, event=False):
        """Send a packet in the negotiated codec, or a telephone-event; dropped while on hold.

        units: how far the timestamp goes on with it; with 0 the next packet has the same.
        """
        flow = self.flow
        kind = flow.formats.get(flow.events if event else flow.audio)
        if kind is not None and not self.mute:
            self.transmit(RTPPacket(kind, self.sequence, self.timestamp, self.ssrc, payload,
                                    marker).serialize(), self.timestamp,
                          int(self._clock() * 8000))
        self.skip(units)

    def skip(self, units):
        """Let the timestamp go on where nothing is sent."""
        self.timestamp = self.timestamp + units & 0xFFFFFFFF

    def transmit(self, data, timestamp, now):
        """Send the bytes of a packet numbered with `sequence`, unless the call is held.

        now: by our clock, in timestamp units.
        """
        flow = self.flow
        if not flow.sending:
            return
        try:
            self.sock.sendto(data, flow.target)
        except OSError as error:
            log.log(logging.DEBUG if flow.failed else logging.WARNING, "RTP to %s not sent: %s",
                    host_port(*flow.target[:2]), error)
            flow.failed = True
            return
        self.sequence = self.sequence + 1 & 0xFFFF
        self._packets_out += 1
        self._octets_out += len(data) - 12
        if timestamp != self._sent[0]:
            self._sent = timestamp, now


def _strip(buffer, size):
    """Rewrite the packet in buffer without padding, extension and CSRCs; return its size or 0."""
    try:
        data = RTPPacket.parse(memoryview(buffer)[:size]).serialize()
    except ValueError:
        return 0
    buffer[:len(data)] = data
    return len(data)
