"""Admission: which peers the server answers, how many messages it takes, how much it sends back.

A peer is unverified until it has ACKed a call: the ACK repeats our tag, so the peer receives what
the server sends to its address. The source of any other datagram may be forged, so the answers to
an unverified peer are bounded by what came from it. All of it runs in the SIP thread.
"""

import functools
import ipaddress
import logging
from typing import Tuple

from siprtp.logs import MAX_KEYS, MINUTE, UNVERIFIED, Counts
from siprtp.sockets import network

log = logging.getLogger(__name__)

PRIVATE = tuple(map(ipaddress.ip_network, (  # RFC 1122, 1918, 3927; RFC 4291, 4193
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10")))
MAX_PEERS, MAX_PORTS = MAX_KEYS, 4  # verified peers remembered, and ports of each
LONG = 1500  # bytes: a message counts once more for each so many
AMPLIFY = 3  # bytes to an unverified peer for each that came from it (as RFC 9000 8.1 has it)
MAX_CREDIT = 65536  # bytes that one unverified peer may be sent at once


class Admission:
    """Decides whether a peer is answered. Unverified peers are counted apart; IPv6 by the /64.

    peers: the allow-list, networks (ipaddress); () for loopback and private ones. A peer that the
    list names by its own address is known from the start, and gets as many answers as a verified
    one: the first call of a trunk must not fail on a network that loses packets. own_ip: the IP at
    which the server reaches itself; no other machine can send from it. rate: messages per second
    from one known peer. An unverified one gets a tenth, all of them together half; long messages
    count as several. 0: no limit. clock: seconds. on_message(ip): told the source of each message
    before anything is logged about it.
    """

    def __init__(self, peers, own_ip, rate, clock, on_message=lambda ip: None):
        self._networks = [(peer.version, int(peer.netmask), int(peer.network_address))
                          for peer in peers or PRIVATE]
        self._named = {str(peer.network_address) for peer in peers if peer.num_addresses == 1}
        self.own_ip, self._rate, self._on_message = own_ip, rate, on_message
        self._messages, self._unverified = Counts(clock, 1), Counts(clock, 1)
        self._warned = Counts(clock, MINUTE)
        self._verified = {}  # ip: its last ports; the peer verified last is the last
        self._credit = {}  # ip of an unverified peer: bytes it may be sent
        self.is_allowed = functools.lru_cache(MAX_PEERS)(self._is_allowed)

    def _is_allowed(self, ip):
        """Return whether the allow-list has an address."""
        address = ipaddress.ip_address(ip.partition("%")[0])
        number = int(address)
        return any(version == address.version and number & mask == first
                   for version, mask, first in self._networks)

    def admits(self, address: Tuple[str, int], size: int, tcp: bool = False) -> bool:
        """Return whether to look at a message of so many bytes from an (ip, port)."""
        ip = address[0]
        self._on_message(ip)
        if not self.is_allowed(ip):
            self._warn_once("not allowed", ip,
                            "%s gets no answer: it is not in ALLOWED_PEERS")
            return False
        flooder = self._rate and self._find_flooder(address, 1 + size // LONG, tcp)
        if flooder:
            self._warn_once("too fast", flooder,
                            "%s: too many messages per second (SIP_RATE), some are dropped")
            return False
        if ip not in self._verified:
            credit = self._credit.pop(ip, 0) + AMPLIFY * size
            remember(self._credit, ip, min(credit, MAX_CREDIT))
        return True

    def _find_flooder(self, address, times, tcp):
        """Return whose messages exceed the rate, or ""; never for the first of a second."""
        ip = address[0]
        if self.is_known(ip):
            # messages from its other ports may be forged: they count apart, as does TCP
            port = "TCP" if tcp else address[1] if address[1] in self._verified.get(ip, ()) else ""
            key = network(ip), port
            return ip if self._messages.add(key, times) >= self._rate + times else ""
        if self._unverified.add(network(ip), times) >= max(1, self._rate // 10) + times:
            return ip
        total = self._unverified.add(UNVERIFIED, times)
        return UNVERIFIED if total >= self._rate // 2 + times else ""

    def is_known(self, ip: str) -> bool:
        """Return whether an address is verified, or named by itself in the allow-list."""
        return ip in self._verified or ip in self._named

    def needs_no_credit(self, ip: str) -> bool:
        """Return whether the server may send an address more than three times what it received."""
        return self.is_known(ip) or ip == self.own_ip

    def is_verified(self, ip: str) -> bool:
        """Return whether an address was verified by an answer of its own."""
        return ip in self._verified

    def verify(self, address: Tuple[str, int]) -> None:
        """Count an (ip, port) as verified from now on: a message from it repeated our tag."""
        ip, port = address[:2]
        ports = self._verified.pop(ip, ())
        remember(self._verified, ip,
                 ports if port in ports else (*ports[1 - MAX_PORTS:], port))
        self._credit.pop(ip, None)

    def take_credit(self, ip: str, size: int) -> bool:
        """Return whether so many bytes may be sent to an address, and book them."""
        if self.needs_no_credit(ip):
            return True
        left = self._credit.get(ip, 0) - size
        if left >= 0:
            self._credit[ip] = left
        return left >= 0

    def _warn_once(self, what, ip, text):
        """Log a warning about a peer, once per minute."""
        if self._warned.add((what, ip)) == 1:
            log.warning(text, ip)


def remember(table, key, value):
    """Put a key into a dict as its newest, and drop the oldest of too many."""
    table[key] = value
    if len(table) > MAX_PEERS:
        del table[next(iter(table))]


def warn_of_open_access(allowed_peers, passwords, here):
    """Warn if the server is open to the internet, or closed to it by default.

    allowed_peers: networks. passwords: not empty if a caller needs one. here: our IP as others
    see it.
    """
    if not ipaddress.ip_address(here).is_global:
        return
    if not allowed_peers:
        log.warning("%s is a public address, but only private networks get an answer: name the "
                    "others in ALLOWED_PEERS", here)
    elif any(not network.prefixlen for network in allowed_peers) and not passwords:
        log.warning("%s is a public address, and ALLOWED_PEERS lets everyone call: name your "
                    "peers there, or set SIP_PASSWORD_FILE", here)
