"""Look host names up in threads: the SIP thread must not wait for a name server.

All of it runs in the SIP thread, except for `_look_up`.
"""

import logging
import socket
import threading

from siprtp.sockets import network

log = logging.getLogger(__name__)

# Look-ups at once, each with a thread: in total, in total before an unverified peer gets another,
# and for the calls of one source
MAX_LOOKUPS, MAX_UNVERIFIED, MAX_OF_ONE = 100, 50, 10


class Lookups:
    """Limits the look-ups that run at once, in total and for each source.

    call_soon(function, *args): calls it in the SIP thread. family: AF_INET or AF_INET6.
    on_source(ip): told whose look-up is done, before anything is logged about it.
    """

    def __init__(self, call_soon, family, on_source=lambda ip: None):
        self._call_soon, self._family, self._on_source = call_soon, family, on_source
        # (network of a source, names): [(IP, on_done)]; many calls at once may name one host
        self._waiting = {}

    def start(self, source_ip, hosts, on_done, known=True):
        """Look names up; on_done({name: IP}) gets those that were found, in the SIP thread.

        known: False for an unverified peer, whose address may be forged.
        Raises RuntimeError if too many look-ups run, or no thread can start.
        """
        key = network(source_ip), tuple(hosts)
        if key not in self._waiting:
            running, most = len(self._waiting), MAX_LOOKUPS if known else MAX_UNVERIFIED
            of_one = sum(source == key[0] for source, _ in self._waiting)
            if running >= most or of_one >= MAX_OF_ONE:
                raise RuntimeError(f"{running} look-ups are running, {of_one} of them for this "
                                   "source")
            threading.Thread(target=self._look_up, args=(key,), daemon=True,
                             name="look-up").start()
        self._waiting.setdefault(key, []).append((source_ip, on_done))

    def _look_up(self, key):
        found = {}
        for host in key[1]:
            try:
                found[host] = socket.getaddrinfo(host, None, self._family,
                                                 socket.SOCK_DGRAM)[0][4][0]
            except (OSError, UnicodeError) as error:
                log.debug("no address for %.99r: %s", host, error)
        self._call_soon(self._finish, key, found)

    def _finish(self, key, found):
        for source_ip, on_done in self._waiting.pop(key):
            self._on_source(source_ip)
            try:
                on_done(found)
            except Exception:
                log.exception("a request whose host names were looked up failed")
