"""A session's RTCP: the reports it sends and reads (RFC 3550 6).

For the SIP thread alone. The session is given with each call, as it owns its Reports.
"""

import logging
import secrets
import socket
import time
from typing import Optional

from siprtp.media import rtcp
from siprtp.media.arrival import arrival_of
from siprtp.sockets import host_port

log = logging.getLogger(__name__)

MAX_REPORTS_READ = 20  # datagrams read before each report of ours: a peer sends one or two
MAX_ROUND_TRIP = 60 * 65536  # 1/65536 s: a longer one means that one of the clocks is wrong


class Reports:
    """The reports of one session.

    sock: bound to the RTCP port and owned from now on, or None for no RTCP.
    """

    def __init__(self, sock: Optional[socket.socket] = None):
        self.sock = sock
        self.round_trip: Optional[float] = None  # seconds, by the other side's reports
        self._cname = secrets.token_hex(8)
        self._last_sr = 0, 0, 0.0  # (SSRC, middle of its NTP time, its arrival by our clock)
        self._reported = 0, 0  # (packets in, packets out) at our last report
        self._has_reported = False

    def exchange(self, session, now: float) -> None:
        """Read the reports that have arrived and send ours. now: seconds since 1970."""
        if self.sock is None:
            return
        self._read(session, now)
        self._has_reported = True
        self._send(session, rtcp.report(session.ssrc, self._cname, *self._collect(session, now)))

    def close(self, session) -> None:
        """Send a BYE if the session has sent anything (RFC 3550 6.3.7), and close the socket."""
        if self.sock is None:
            return
        if self._has_reported or (session.packets_out and not session.mute):
            news = self._collect(session, time.time())
            self._send(session, rtcp.goodbye(session.ssrc, self._cname, *news))
        self.sock.close()
        self.sock = None

    def take(self, session, sent, blocks, arrived, now: float) -> None:
        """Take a report as rtcp.parse returns it. arrived: seconds since 1970, or None."""
        if arrived is None:
            return  # without the arrival there is nothing to measure
        if sent is not None:  # by our own clock, as the wall clock may jump before our next report
            self._last_sr = sent[0], sent[1] >> 16 & 0xFFFFFFFF, session.clock() - (now - arrived)
        for block in blocks:
            if block.ssrc == session.ssrc and block.last_sr:
                took = (rtcp.ntp(arrived) >> 16) - block.last_sr - block.delay & 0xFFFFFFFF
                if took < MAX_ROUND_TRIP:
                    self.round_trip = took / 65536

    def _collect(self, session, now):
        """Return (sender, block) for rtcp.report: what was sent and received since the last."""
        received, packets_out, bytes_out = session.counts()
        packets = received.packets, packets_out
        sender = block = None
        if packets[1] > self._reported[1]:
            timestamp, when = session.last_sent
            timestamp += int(session.clock() * 8000) - when
            sender = (rtcp.ntp(now), timestamp & 0xFFFFFFFF, packets_out,
                      bytes_out & 0xFFFFFFFF)
        if packets[0] > self._reported[0] and received.ssrc is not None:
            ssrc, last_sr, arrived = self._last_sr
            last_sr = last_sr if ssrc == received.ssrc else 0
            delay = int((session.clock() - arrived) * 65536) & 0xFFFFFFFF if last_sr else 0
            block = received.block(last_sr, delay)
        self._reported = packets
        return sender, block

    def _send(self, session, data):
        address = session.flow.rtcp
        try:
            if address:
                self.sock.sendto(data, address)
        except OSError as error:
            log.debug("%s: RTCP to %s not sent: %s", session, host_port(*address), error)

    def _read(self, session, now):
        flow = session.flow
        allowed = {session.peer_ip, *(at[0] for at in (flow.rtcp, flow.remote) if at)}
        for _ in range(MAX_REPORTS_READ):
            try:
                data, ancillary, _, source = self.sock.recvmsg(2048, 64)
            except (OSError, AttributeError):
                return  # no more, or a system without recvmsg
            try:
                if source[0] in allowed:
                    self.take(session, *rtcp.parse(data), arrival_of(ancillary), now)
            except ValueError as error:
                log.debug("%s: RTCP from %s ignored: %s", session, host_port(*source[:2]), error)
