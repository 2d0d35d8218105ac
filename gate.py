"""The gate: who may speak to the server, how much, and how much is written about it.

A source is a stranger until a call of its is ACKed: the ACK repeats our tag, so what we sent to
that address was heard. The source of any other datagram may be forged, and what a stranger gets
for it is bounded. All of it runs in the SIP thread, `filter` in any.  Imports: net.
"""

import functools
import ipaddress
import logging
import math
import threading

from net import network

log = logging.getLogger(__name__)

PRIVATE = tuple(map(ipaddress.ip_network, (  # RFC 1122, 1918, 3927; RFC 4291, 4193
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10")))
MOST, PORTS = 10000, 4  # sources that are remembered, and ports of each
LONG = 1500  # octets: a message counts once more for each so many
AMPLIFY = 3  # octets to a stranger for each that came from it (as RFC 9000 8.1 has it)
MOST_CREDIT = 65536  # octets
MINUTE = 60  # seconds
ALIKE = 10  # warnings of one text a minute, whatever its values: a fault may repeat for each packet
OURS = frozenset("calls conversation net recorder rtp rtp_thread server sip_tcp".split())
STRANGERS = "strangers"  # all of them, in place of an IP
LINES, STRANGERS_LINES = 100, 6000  # a minute, of one stranger and of all


class Counts:
    """How often each key came in the period that runs."""

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self._period, self._counts = clock, seconds, None, {}
        self._lock = threading.Lock()  # any thread may log

    def add(self, key, times=1):
        """Count a key; return how often it came in this period, without end for one too many."""
        period = int(self._clock() / self._seconds)
        with self._lock:
            if period != self._period:
                self._period, self._counts = period, {}
            count = self._counts.get(key, 0) + times
            if count == times and len(self._counts) >= MOST:
                return math.inf
            self._counts[key] = count
            return count


class Gate:
    """Who may speak. Strangers are counted apart, for they can fill their tables; IPv6 by the /64.

    peers: networks (ipaddress), of which others get no answer; () for loopback and private ones.
    Who is named there by an address of its own is no stranger, but has to show that it hears us.
    home: the IP at which we reach ourselves; nobody else can send from it.
    rate: messages a second of one source that is known; a stranger may send a tenth, and all
    strangers together half of it. Long ones count as several. 0: no limit. clock: seconds.
    """

    def __init__(self, peers, home, rate, clock):
        self._networks = [(peer.version, int(peer.netmask), int(peer.network_address))
                          for peer in peers or PRIVATE]
        self._named = {str(peer.network_address) for peer in peers if peer.num_addresses == 1}
        self.home, self._rate = home, rate
        self._messages, self._lines = Counts(clock, 1), Counts(clock, MINUTE)
        self._strange, self._strange_lines = Counts(clock, 1), Counts(clock, MINUTE)
        self._texts = Counts(clock, MINUTE)
        self._known = {}  # ip: the last ports of it; the last one proven last
        self._credit = {}  # ip of a stranger: octets it may be sent
        self._speaker, self._thread = "", threading.get_ident()
        self.allows = functools.lru_cache(MOST)(self._allows)

    def _allows(self, ip):
        """Say whether an address is one of the peers."""
        address = ipaddress.ip_address(ip.partition("%")[0])
        number = int(address)
        return any(version == address.version and number & mask == first
                   for version, mask, first in self._networks)

    def admits(self, address, size, tcp=False):
        """Say whether a message of so many octets from an (ip, port) is to be looked at."""
        ip = address[0]
        self.blame(ip)
        if not self.allows(ip):
            self._say_once("not a peer", ip, "%s is not answered: ALLOWED_PEERS does not name it")
            return False
        who = self._rate and self._find_flood(address, 1 + size // LONG, tcp)
        if who:
            self._say_once("too much", who, "%s: too many messages, some are dropped: SIP_RATE")
            return False
        if ip not in self._known:
            credit = self._credit.pop(ip, 0) + AMPLIFY * size
            remember(self._credit, ip, min(credit, MOST_CREDIT))
        return True

    def _find_flood(self, address, times, tcp):
        """Return who sends too much, or ""; the first message of a second never is."""
        ip = address[0]
        if self.knows(ip):
            # what another port of it sends may be forged: it counts by itself, as does TCP
            port = "TCP" if tcp else address[1] if address[1] in self._known.get(ip, ()) else ""
            key = network(ip), port
            return ip if self._messages.add(key, times) >= self._rate + times else ""
        if self._strange.add(network(ip), times) >= max(1, self._rate // 10) + times:
            return ip
        return STRANGERS if self._strange.add(STRANGERS, times) >= self._rate // 2 + times else ""

    def knows(self, ip):
        """Say whether an address is no stranger: a call of it was ACKed, or it is named alone."""
        return ip in self._known or ip in self._named

    def hears(self, ip):
        """Say whether it is known that who sent from an address hears what is sent to it."""
        return ip in self._known or ip == self.home

    def prove(self, address):
        """Know an (ip, port) from now on: its owner has our tag."""
        ip, port = address[:2]
        ports = self._known.pop(ip, ())
        remember(self._known, ip, ports if port in ports else (*ports[1 - PORTS:], port))
        self._credit.pop(ip, None)

    def pays(self, ip, size):
        """Say whether so many octets may be sent to an address, and book them."""
        if self.hears(ip):
            return True
        left = self._credit.get(ip, 0) - size
        if left >= 0:
            self._credit[ip] = left
        return left >= 0

    # The log

    def _say_once(self, what, ip, text):
        if self._strange_lines.add((what, ip)) == 1:
            log.warning(text, ip)

    def blame(self, ip):
        """Say that what is logged from now on is the doing of an address."""
        self._speaker, self._thread = ip, threading.get_ident()

    def done(self):
        """Say that what is logged from now on is nobody's doing."""
        self._speaker = ""

    def filter(self, record):
        """Say whether a LogRecord is to be written: what a source or a fault causes is bounded."""
        if record.levelno >= logging.WARNING and record.name in OURS:
            count = self._texts.add(record.msg)
            if count == ALIKE:
                record.msg = f"{record.msg} (no more lines like it in this minute)"
            if count > ALIKE:
                return False
        ip = self._speaker
        if not ip or record.levelno <= logging.DEBUG or record.thread != self._thread:
            return True
        if ip in self._known:
            return self._may_say(self._lines, network(ip), self._rate * MINUTE / 2 or math.inf)
        if record.name == "sip_auth" and record.levelno >= logging.WARNING:
            return True  # that somebody guesses passwords, once a minute
        return (self._may_say(self._strange_lines, network(ip), LINES)
                and self._may_say(self._strange_lines, STRANGERS, STRANGERS_LINES))

    def _may_say(self, counts, who, most):
        count = counts.add(who)
        if count == most + 1:
            speaker, self._speaker = self._speaker, ""
            log.warning("%s: no more lines about it in this minute", who)
            self._speaker = speaker
        return count <= most


def remember(table, key, value):
    """Put a key into a dict as its last, and forget the first of too many."""
    table[key] = value
    if len(table) > MOST:
        del table[next(iter(table))]
