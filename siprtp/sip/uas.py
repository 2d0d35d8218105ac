"""The user agent server core: check a request, hand it to its method, answer (RFC 3261 8.2)."""

import logging

from sip_message import SIPError
from sip_response import SIPResponse, response_address
from siprtp.logs import call_id
from siprtp.sip import sdp
from siprtp.sip.answers import ALLOW
from siprtp.sip.methods import METHODS
from siprtp.sip.transaction import merge_key
from siprtp.sockets import host_port

log = logging.getLogger(__name__)

UNDERSTOOD = ("timer", "100rel")  # option tags that Require may name
NOT_ALLOWED = frozenset("MESSAGE PUBLISH REFER REGISTER SUBSCRIBE".split())  # 405, not 501
DESCRIBED = ("INVITE", "ACK", "UPDATE")  # methods whose body may be a session description
MAX_NAMES = 4  # host names in a description that are looked up
TRYING_SECONDS = 0.2  # until a 100, if an INVITE has no other response (RFC 3261 17.2.1)
MAX_TRANSACTIONS = 2000  # of unverified peers; beyond, they get answers without a transaction
RETRY = ("Retry-After", "10")  # of a 503 while the server stops
HINTS = {"REGISTER": "; phones need no account here, call without registering"}


class UAS:
    """Answers requests; the context that the functions in METHODS get.

    transactions: the ServerTransactions. admission: which peers are verified. reply(data,
    address): sends a response that belongs to no transaction. after(seconds, function, *args).
    lookups: the Lookups. authenticator: an Authenticator, or None if every allowed peer may call.
    calls: the Calls, set before the first request.
    """

    def __init__(self, transactions, admission, reply, after, lookups, authenticator=None):
        self.transactions, self.calls = transactions, None
        self._admission, self._reply, self._after = admission, reply, after
        self._lookups, self._authenticator = lookups, authenticator
        # requests whose names are being looked up, by transaction; an ACK has none: by merge_key
        self._looked_up = {}
        self.stopping = False  # True: no new calls

    def receive(self, request):
        """Take a request: absorb a retransmission, or call its method; answer every error."""
        self._attempt(self._begin, request)

    def _attempt(self, function, request, *args):
        """Call function(request, *args), and answer every error."""
        try:
            function(request, *args)
        except SIPError as error:
            self.reject(request, error)
        except Exception:
            log.exception("%.20s failed, answered with 500; Call-ID %a", request.method(),
                          call_id(request))
            self.reject(request, SIPError(500, ""))

    def _begin(self, request):
        request.check()
        if self.transactions.absorb(request):
            return
        # A re-INVITE needs no password: its sender knows both tags, 64 bits of them ours.
        # RFC 3261 26.3.2.4: a 401 is sent once and has no transaction
        if self._authenticator and request.method() == "INVITE" and not request.to_tag:
            self._authenticator.check(request)
            self._admission.verify(request.source)  # it received our nonce
        if request.method() != "ACK":
            self._begin_transaction(request)
        self._dispatch(request)
        if request.method() == "INVITE" and is_trying(request):
            self._after(TRYING_SECONDS, self._send_trying, request)

    def _send_trying(self, request):
        """Send 100, unless the bot has answered or rings by now.

        An earlier one would also take from the few bytes that an unverified peer may be sent.
        """
        if is_trying(request):
            self.respond(request, 100)

    def _begin_transaction(self, request):
        """Begin a transaction, unless unverified peers have too many (RFC 3261 8.2.7)."""
        unverified = not self._admission.is_known(request.source[0])
        if not unverified or self.transactions.unverified < MAX_TRANSACTIONS:
            self.transactions.begin(request, unverified)
        elif request.method() == "INVITE":
            raise SIPError(486, "")

    def _dispatch(self, request, looked_up=False):
        """Check a request in the order of RFC 3261 8.2, then call the function of its method.

        looked_up: the look-up of the host names in its description is over.
        """
        method = request.method()
        function = METHODS.get(method)
        if function is None:
            raise SIPError(405 if method in NOT_ALLOWED else 501, "", [("Allow", ALLOW)])
        if method not in ("ACK", "CANCEL"):  # RFC 3261 8.2.2.3 and 9.1
            if request.transaction and self.transactions.is_merged(request):
                raise SIPError(482, "")
            unsupported = [option for option in request.headers_all("Require")
                           if option.lower() not in UNDERSTOOD]
            if unsupported:
                raise SIPError(420, "", [("Unsupported", ", ".join(unsupported))])
            if self.stopping and method in ("INVITE", "OPTIONS") and not request.to_tag:
                raise SIPError(503, "", [RETRY])
        if looked_up or method not in DESCRIBED or not self._look_up(request):
            function(self, request)

    def _look_up(self, request):
        """Look up the names in a description, and then dispatch the request again.

        Return False if there are none, or no look-up can start. A name without an address gets 488
        later.
        """
        names = sdp.host_names(request.body)
        if not 0 < len(names) <= MAX_NAMES or (request.to_tag and not self.calls.find(request)):
            return False
        key = request.transaction or merge_key(request)
        if key in self._looked_up:
            return True  # an ACK comes again with each repeat of our 200

        def on_done(found):
            self._looked_up.pop(key, None)
            if request.transaction is None or request.transaction.open:  # else it was cancelled
                request.body = sdp.with_addresses(request.body, found)
                self._attempt(self._dispatch, request, True)

        try:
            source_ip = request.source[0]
            self._lookups.start(source_ip, names, on_done, self._admission.is_known(source_ip))
        except RuntimeError as error:
            log.warning("a name in the description of the media is not looked up: %s; Call-ID %a",
                        error, call_id(request))
            return False
        self._looked_up[key] = request
        return True

    def reject_waiting(self):
        """Reject the new calls whose names are being looked up; return whether there were any."""
        waiting = [request for request in self._looked_up.values()
                   if request.method() == "INVITE" and not request.to_tag]
        for request in waiting:
            self.reject(request, SIPError(503, "", [RETRY]))
        return bool(waiting)

    def stop_looking_up(self, transaction):
        """Return the INVITE of a transaction whose names are being looked up, or None."""
        return self._looked_up.pop(transaction, None) if transaction.invite else None

    def respond(self, request, code, reason="", headers=(), body=b"", to_tag=""):
        """Answer a request; return the SIPResponse."""
        response = SIPResponse(code, reason, request, to_tag, headers, body)
        if request.transaction:
            request.transaction.respond(code, bytes(response), response_address(request))
        else:  # RFC 3261 8.2.7: it is malformed, or one too many
            self._reply(bytes(response), response_address(request))
        return response

    def reject(self, request, error):
        """Answer with the status of a SIPError; an ACK is never answered."""
        if request.method() == "ACK":
            log.debug("malformed ACK dropped: %s", error)
            return
        response = self.respond(request, error.status, error.reason, error.headers)
        # siprtp.sip.auth logs what matters of these two
        level = logging.DEBUG if error.status in (401, 403) else logging.INFO
        log.log(level, "%.20s from %s rejected: %d %s%.400s%s; From %a, Call-ID %a",
                request.method(), host_port(*request.source), error.status, response.reason,
                "".join(f"; {name}: {value!a}" for name, value in error.headers),
                HINTS.get(request.method(), ""), request.header("From", "")[:100],
                call_id(request))


def is_trying(request):
    """Return whether a request has got no response yet."""
    return request.transaction is not None and request.transaction.state == "trying"
