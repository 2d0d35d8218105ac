"""Digest authentication of INVITE: who may call (RFC 3261 22, RFC 7616, RFC 8760).

The server stores no challenges: a nonce itself says when and for which peer it was made. All of it
runs in the SIP thread.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections import OrderedDict

from sip_message import SIPError
from sip_utils import new_tag, parse_params, split_list
from siprtp.logs import call_id
from siprtp.sockets import host_port, network

log = logging.getLogger(__name__)

# RFC 3261 22.1 wants a host or domain name; we may have none, and callers must configure it
REALM = "sip-rtp-server"
ALGORITHMS = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}
NONCE_SECONDS = 60
MAX_FAILURES, FAILURE_SECONDS = 10, 60  # wrong passwords per source; beyond them 403
MAX_SOURCES = 10000  # sources whose failures are counted; an entry takes about 300 bytes
ASKED_SECONDS, MAX_ASKED = 10, 20  # seconds to wait for credentials; callers tracked at most
COUNT = re.compile("[0-9A-Fa-f]{8}")
SECRET_LINE = re.compile(rb"(?im)^([ \t\r]*(?:proxy-)?authorization\b)[^\n]*(?:\n[ \t][^\n]*)*")


class Authenticator:
    """Checks whether a request comes from a user.

    users: {name: password}. clock: seconds, monotonic. after(seconds, function): calls it then.
    algorithms: of ALGORITHMS, the best first (RFC 8760 2.3).
    """

    def __init__(self, users, clock, after, algorithms=tuple(ALGORITHMS), realm=REALM):
        self._clock, self._realm, self._secret = clock, realm, secrets.token_bytes(32)
        self._after = after
        self._algorithms = {name: ALGORITHMS[name] for name in algorithms}
        # "" stands for unknown users, so that they take as much time as a wrong password
        self._ha1 = {(user, name): digest(algorithm, user, realm, password)
                     for user, password in [*users.items(), ("", secrets.token_hex(32))]
                     for name, algorithm in self._algorithms.items()}
        self._epoch = secrets.randbelow(10 ** 9)  # so that a nonce does not reveal the uptime
        self._counts = OrderedDict()  # nonce used well -> [when its entry expires, its last nc]
        self._failures = OrderedDict()  # source -> [when its entry expires, failures]
        self._asked = set()  # (source, Call-ID) of callers that owe us credentials

    def check(self, request) -> None:
        """Raise SIPError unless a user sent the request: 401, or 403 after too many failures."""
        now, source = self._clock() + self._epoch, network(request.source[0])
        for table in (self._counts, self._failures):
            while table and next(iter(table.values()))[0] <= now:
                table.popitem(last=False)
        if self._failures.get(source, (0, 0))[1] >= MAX_FAILURES:
            raise SIPError(403, "")
        # RFC 7616 3.4: malformed credentials get a 4xx; here 401, like all invalid ones
        credentials = find_credentials(request, self._realm)
        nonce = credentials.get("nonce", "")
        made, _, mac = nonce.rpartition("-")
        if not same(mac, self._mac(made, source)):  # perhaps this source has not even sent it
            self._expect(request)
            raise self._challenge(now, source)
        self._asked.discard(caller(request))
        if not self._is_right(credentials, request.method()):
            self._on_failure(now, source, credentials)
            raise self._challenge(now, source)
        fresh = now - float(made.partition("-")[0]) < NONCE_SECONDS
        if not fresh or not self._is_next(now, nonce, int(credentials["nc"], 16)):
            raise self._challenge(now, source, stale=True)

    def _expect(self, request):
        """Log a caller that sends no credentials: one that cannot answer a 401 just gives up."""
        asked, peer = caller(request), host_port(*request.source)
        if asked in self._asked or len(self._asked) >= MAX_ASKED:
            return

        def tell():
            if asked in self._asked:
                self._asked.remove(asked)
                log.info("INVITE from %s: sent 401 for realm %r; the caller never sent "
                         "credentials; Call-ID %a", peer, self._realm, asked[1])

        self._asked.add(asked)
        self._after(ASKED_SECONDS, tell)

    def _mac(self, made, source):
        text = f"{made} {source}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, "sha256").hexdigest()[:32]

    def _challenge(self, now, source, stale=False):
        """Return a 401 with a new nonce. stale: the password was right, the nonce is used up."""
        made = f"{now:.3f}-{new_tag()}"
        text = (f'Digest realm="{self._realm}", qop="auth", '
                f'nonce="{made}-{self._mac(made, source)}"{", stale=true" if stale else ""}')
        return SIPError(401, "", [("WWW-Authenticate", f"{text}, algorithm={name}")
                                  for name in self._algorithms])

    def _is_right(self, credentials, method):
        """Return whether the credentials were made with the password of their user."""
        name = credentials.get("algorithm", "MD5").upper()
        if name not in self._algorithms:
            return False
        ha1 = self._ha1.get((get_user(credentials), name), self._ha1["", name])
        right = same(credentials.get("response", ""),
                     get_response(self._algorithms[name], ha1, method, credentials))
        # RFC 3261 22.4: a client that is offered qop sends it; without it a replay would work
        return (right and credentials.get("qop") == "auth"
                and bool(COUNT.fullmatch(credentials.get("nc", ""))))

    def _is_next(self, now, nonce, count):
        """Return whether nc is higher than any before with this nonce, and store it."""
        entry = self._counts.setdefault(nonce, [now + NONCE_SECONDS, 0])
        entry[1], last = max(entry[1], count), entry[1]
        return count > last

    def _on_failure(self, now, source, credentials):
        entry = self._failures.setdefault(source, [now + FAILURE_SECONDS, 0])
        entry[1] += 1
        log.info("wrong credentials from %s: user %.50r%s", source, get_user(credentials),
                 "" if credentials.get("qop") == "auth" else "; qop=auth is missing")
        if entry[1] == MAX_FAILURES:
            log.warning("%d wrong credentials from %s: its calls get 403 for the next %.0f s",
                        MAX_FAILURES, source, entry[0] - now)
        if len(self._failures) > MAX_SOURCES:
            self._failures.popitem(last=False)


def caller(request):
    return request.source[0], call_id(request)


def find_credentials(request, realm):
    """Return the parameters of the first Digest credentials for a realm, {} for none."""
    for value in request.headers_all("Authorization"):
        scheme, params = (value.split(None, 1) + ["", ""])[:2]
        if scheme.lower() == "digest":
            params = parse_params(split_list(params))
            if params.get("realm") == realm:
                return params
    return {}


def get_user(credentials):
    """Return the user name, cut to 500 characters: 65 kB of escapes would take 30 ms."""
    return re.sub(r"\\(.)", r"\1", credentials.get("username", "")[:500])


def get_response(algorithm, ha1, method, credentials):
    """Return the right response to a challenge with qop=auth (RFC 7616 3.4.1).

    The uri is used as sent: RFC 3261 22.4 lets it differ from the Request-URI, as it does behind
    a proxy or SBC that rewrites numbers.
    """
    nonce, count, cnonce, qop, uri = [credentials.get(name, "") for name in
                                      ("nonce", "nc", "cnonce", "qop", "uri")]
    return digest(algorithm, ha1, nonce, count, cnonce, qop, digest(algorithm, method, uri))


def digest(algorithm, *parts):
    return algorithm(":".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def same(given, right):
    """Compare a value to a secret, in a time that does not depend on the secret."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())


def hide_credentials(data: bytes) -> bytes:
    """Return the bytes of a message without its credentials, for the log."""
    return SECRET_LINE.sub(rb"\1: ***\r", data)
