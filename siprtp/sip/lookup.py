"""Look host names up in threads: the SIP thread must not wait for a name server.

All of it runs in the SIP thread, except for `_look_up`.
"""

import collections
import logging
import socket
import threading

from siprtp.sockets import network

log = logging.getLogger(__name__)

# Look-ups at once: in total, in total before an unverified peer gets another, of one source
MAX_LOOKUPS, MAX_UNVERIFIED, MAX_OF_ONE = 100, 50, 10


class Lookups:
    """call_soon(function, *args): calls it in the SIP thread. family: AF_INET or AF_INET6.

    on_source(ip): told whose look-up is done, before anything is logged about it.
    """

    def __init__(self, call_soon, family, on_source=lambda ip: None):
        self._call_soon, self._family, self._on_source = call_soon, family, on_source
        self._running = collections.Counter()  # network of a source: look-ups

    def start(self, source_ip, hosts, on_done, known=True):
        """Look names up; on_done({name: IP}) gets those that were found, in the SIP thread.

        known: whether the source is no unverified peer, whose address may be forged.
        Raises RuntimeError if too many look-ups run, or no thread can start.
        """
        key = network(source_ip)
        running = sum(self._running.values())
        most = MAX_LOOKUPS if known else MAX_UNVERIFIED
        if running >= most or self._running[key] >= MAX_OF_ONE:
            raise RuntimeError(f"{running} look-ups are running, {self._running[key]} of them for "
                               "this source")
        threading.Thread(target=self._look_up, args=(source_ip, hosts, on_done), daemon=True,
                         name="look-up").start()
        self._running[key] += 1

    def _look_up(self, source_ip, hosts, on_done):
        found = {}
        for host in hosts:
            try:
                found[host] = socket.getaddrinfo(host, None, self._family,
                                                 socket.SOCK_DGRAM)[0][4][0]
            except (OSError, UnicodeError) as error:
                log.debug("no address for %.99r: %s", host, error)
        self._call_soon(self._finish, source_ip, found, on_done)

    def _finish(self, source_ip, found, on_done):
        self._running[network(source_ip)] -= 1
        self._running += collections.Counter()  # drops those that are 0
        self._on_source(source_ip)
        on_done(found)
