"""The log: bound what one peer or one fault can make the server write."""

import logging
import math
import threading
from typing import Hashable

from siprtp.sockets import network

log = logging.getLogger(__name__)

MAX_KEYS = 10000  # keys that one Counts holds in a period
MINUTE = 60  # seconds
ALIKE = 10  # warnings of one text per minute, whatever its values: a fault may repeat per packet
PEER_LINES = 100  # lines per minute that one unverified peer can cause
UNVERIFIED_LINES = 6000  # lines per minute that all unverified peers together can cause
UNVERIFIED = "unverified peers"  # all of them, where a single peer would have its IP
OWN = ("rtp", "server", "siprtp")  # loggers of the server; a bot may log what it likes
# loggers that limit their warnings per peer: one text for many peers must not silence the others
PER_PEER = ("siprtp.logs", "siprtp.sip.admission", "siprtp.sip.auth")


def call_id(message):
    """Return the Call-ID of a SIPMessage, cut so that it fits into a log line."""
    return message.header("Call-ID", "")[:100]


class Counts:
    """Counts how often each key came in the current period. Any thread may use it."""

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self._period, self._counts = clock, seconds, None, {}
        self._lock = threading.Lock()

    def add(self, key: Hashable, times: int = 1) -> float:
        """Return the key's count in this period, or infinity if the table is full."""
        period = int(self._clock() / self._seconds)
        with self._lock:
            if period != self._period:
                self._period, self._counts = period, {}
            count = self._counts.get(key, 0) + times
            if count == times and len(self._counts) >= MAX_KEYS:
                return math.inf
            self._counts[key] = count
            return count


class LogThrottle:
    """A logging filter: `filter` says whether to write a record. Any thread may log.

    clock: seconds. rate: messages per second that a verified peer may send, 0 for no limit: it
    may cause half as many lines. is_verified(ip): whether an address has shown that it receives
    what the server sends; a datagram from any other may be forged.
    """

    def __init__(self, clock, rate=0, is_verified=lambda ip: False):
        self._is_verified = is_verified
        self._verified_lines = rate * MINUTE / 2 or math.inf
        self._verified, self._unverified = Counts(clock, MINUTE), Counts(clock, MINUTE)
        self._texts = Counts(clock, MINUTE)
        self._peer, self._thread = "", threading.get_ident()

    def begin(self, ip: str) -> None:
        """Count the lines that this thread logs from now on against a peer's address."""
        self._peer, self._thread = ip, threading.get_ident()

    def end(self) -> None:
        """Count the lines that follow against no peer."""
        self._peer = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a LogRecord."""
        own = record.name.partition(".")[0] in OWN and record.name not in PER_PEER
        if own and record.levelno >= logging.WARNING and not self._may_repeat(record):
            return False
        ip = self._peer
        if not ip or record.levelno <= logging.DEBUG or record.thread != self._thread:
            return True
        if self._is_verified(ip):
            return self._may_cause(self._verified, network(ip), self._verified_lines)
        if record.name == "siprtp.sip.auth" and record.levelno >= logging.WARNING:
            return True  # password guessing, once per source and minute
        return (self._may_cause(self._unverified, network(ip), PEER_LINES)
                and self._may_cause(self._unverified, UNVERIFIED, UNVERIFIED_LINES))

    def _may_repeat(self, record):
        count = self._texts.add(record.msg)
        if count == ALIKE:
            record.msg = f"{record.msg} (no more lines like this for a minute)"
        return count <= ALIKE

    def _may_cause(self, counts, peer, limit):
        count = counts.add(peer)
        if count == limit + 1:
            current, self._peer = self._peer, ""
            log.warning("%s: no more lines about this peer for a minute", peer)
            self._peer = current
        return count <= limit
