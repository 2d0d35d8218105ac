"""The fast path of the echo: it sends a session's packets back and counts runs of them."""

import struct
import threading
from typing import Dict

from rtp import HEADER
from siprtp.dtmf import FRAME

HEAD = struct.Struct("!QI")  # an RTP header: all before the SSRC as one number, SSRC
unpack_head, pack_head = HEAD.unpack_from, HEAD.pack_into
STEPS: Dict[int, int] = {}  # bytes of payload in a packet: Echo.step


class Echo:
    """Sends the packets of a session back. The RTP thread calls `take`.

    Nearly every packet follows the previous one without a gap and differs from it only in its
    sequence number and timestamp. The heads of such a run (a head is the first 8 bytes, as a
    number) are `step` apart, and the heads of our packets are `shift` higher. A run is echoed from
    this object alone, because with many calls other memory is not in the CPU's cache. The session
    counts a run when its counters are read, or when the run ends.
    """

    __slots__ = ("due", "echoed", "first", "jitter", "last", "next", "offset", "ours", "session",
                 "settling", "shift", "size", "sock", "source", "ssrc", "step", "target")

    def __init__(self, session):
        self.session, self.sock, self.ours = session, session.sock, session.ssrc
        self.settling = threading.Lock()
        self.echoed, self.offset = None, 0  # an SSRC, and our timestamps minus its
        # what all packets of a run have in common
        self.target = self.source = self.ssrc = None
        self.size = self.step = self.shift = -1
        # heads of: the first packet not counted, the next, the last before our numbers wrap
        self.first = self.next = self.last = -1
        self.due = self.jitter = 0  # the next packet, in timestamp units; jitter, times 16

    def __str__(self):
        return str(self.session)

    def take(self, view, now):
        """Read a packet and send it back; return False once the call has ended.

        view: a buffer for it. now: by our clock, in timestamp units. SSRC and sequence numbers are
        our own, as mirrored ones look like a loop (RFC 3550 8.2); payload, marker and timestamp
        steps stay the same.
        """
        sock = self.sock
        try:
            size, source = sock.recvfrom_into(view)
        except OSError:  # nothing has arrived, or an ICMP error of an earlier packet
            return self._goes_on()
        head, ssrc = unpack_head(view)
        if (head == self.next and ssrc == self.ssrc and size == self.size
                and source == self.source and head <= self.last):
            pack_head(view, 0, head + self.shift, self.ours)
            try:
                sock.sendto(view[:size], self.target)
            except OSError:
                pack_head(view, 0, head, ssrc)  # _take_one tries again, and logs
            else:
                self.next = head + self.step
                change, self.due = now - self.due, now + size - 12
                if -8000 < change < 8000:  # RFC 3550 A.8
                    self.jitter += (change if change > 0 else -change) - (self.jitter + 8 >> 4)
                return True
        self._take_one(view, size, source, now)
        return self._goes_on()

    def _goes_on(self):
        if not self.session.stop_event.is_set():
            return True
        self.settle(end=True)
        self.session.echo = None  # a cycle: both would stay until a garbage collection
        return False

    def _take_one(self, view, size, source, now):
        """Echo a packet that does not continue a run; it may begin one."""
        session, plain = self.session, view[0] == 0x80
        self.settle(end=True)
        flow = session.flow
        size = session.take(view, size, source, now)
        if not size:
            return
        second, sequence, timestamp, ssrc = session.header
        if ssrc == self.ours:
            return  # our own packet looped back
        if self.echoed != ssrc:
            self.offset, self.echoed = session.timestamp - timestamp, ssrc  # our stream continues
        if not flow.sending:
            return
        ours, number = timestamp + self.offset & 0xFFFFFFFF, session.sequence
        kind = second & 128 | flow.formats.get(second & 127, second & 127)
        HEADER.pack_into(view, 0, 0x80, kind, number, ours, self.ours)
        session.timestamp = ours + FRAME  # only its low 32 bits matter
        session.transmit(view[:size], ours, now)
        received = session.received
        if not plain or second != flow.audio or sequence != received.highest or size == 12:
            return
        units = size - 12  # in all our codecs, a byte of payload is one timestamp unit
        head = 0x80 << 56 | second << 48 | sequence << 32 | timestamp
        self.ssrc, self.source, self.shift = ssrc, source, unpack_head(view)[0] - head
        self.target = source if source == flow.target else flow.target  # in the CPU's cache already
        self.step = STEPS.setdefault(units, (1 << 32) + units)  # one object for all calls
        self.last = head + self.step * min(0xFFFF - number, (0xFFFFFFFF - ours) // units)
        self.due, self.jitter = now + units, int(received.jitter * 16)
        with self.settling:
            self.first = self.next = head + self.step
            self.size = size if session.flow is flow else -1  # the flow may just have changed

    def interrupt(self):
        """Leave the fast path for the next packet: the session has a new flow. SIP thread."""
        with self.settling:
            self.size = -1

    def settle(self, end=False):
        """Let the session count the run up to now. end: whether the run ends, too.

        If the SIP thread calls it, the last arrival may be that of the packet before.
        """
        with self.settling:
            due, upto, first = self.due, self.next, self.first
            self.first = upto
            if end:
                self.first = self.next = -1
            if upto != first:
                units = self.step & 0xFFFFFFFF
                self.session.count_run(upto - first >> 32, units, upto - self.step, self.shift,
                                       due - units, self.jitter / 16)
