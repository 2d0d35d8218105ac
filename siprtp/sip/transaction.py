"""SIP transactions: absorb retransmissions, and retransmit ourselves (RFC 3261 17, RFC 6026).

Both kinds take `send(data, address)` and `after(seconds, function, *args)`; they have no clock
and no socket. A timer is never cancelled: a late timer finds nothing to do. All of it runs in the
SIP thread.
"""

import logging

from sip_utils import MAGIC_COOKIE

log = logging.getLogger(__name__)

T1, T2, T4 = 0.5, 4.0, 5.0  # seconds, RFC 3261 17.1.1.1 and 17.1.2.2
TIMEOUT = 64 * T1  # timers B, F, H, J, L
PROCEEDING_TIMEOUT = 180.0  # seconds more for an INVITE with a provisional response: timer C


def resend_while(wanted, send, after, interval=T1, limit=T2):
    """Call send() after T1, 2*T1 ... limit, while wanted() (RFC 3261 17.1.2.2, 17.2.1)."""
    after(interval, _resend, wanted, send, after, interval, limit)


def _resend(wanted, send, after, interval, limit):
    if wanted():
        send()
        resend_while(wanted, send, after, min(2 * interval, limit), limit)


class ServerTransaction:
    """One request and the response it got.

    States: trying, proceeding, completed (rejected, or not an INVITE), confirmed (the rejection
    was ACKed), accepted (2xx: RFC 6026 leaves its retransmission to the dialog), terminated.
    """

    def __init__(self, request, keys, unverified, send, after, end):
        self.keys = keys  # under which ServerTransactions finds it
        self.unverified = unverified
        self.invite = request.method() == "INVITE"
        self.dialog, self.tag = None, ""  # the dialog an INVITE sets up, and our tag in it
        self.state = "trying"
        self._reliable = request.connection is not None
        self._send, self._after, self._end = send, after, end
        self._reply = self._address = None

    @property
    def open(self):
        """True until the final response."""
        return self.state in ("trying", "proceeding")

    def respond(self, code, data, address):
        """Send a response, keep it for retransmissions, and move on."""
        if not self.open:
            log.debug("a second final response (%d) is not sent", code)
            return
        if code >= 200:
            self.dialog = None  # a transaction stays for 32 s and should be small
        self._reply, self._address = data, address
        if code < 200:
            self.state = "proceeding"
        elif self.invite and code < 300:
            self.state = "accepted"
            self._after(TIMEOUT, self._terminate)  # timer L
        else:
            self.state = "completed"
            wait = 0 if self._reliable and not self.invite else TIMEOUT
            self._after(wait, self._terminate)  # J, or H
            if self.invite and not self._reliable:
                resend_while(lambda: self.state == "completed", self._repeat, self._after)  # G
        self._repeat()

    def on_repeat(self):
        """Answer a retransmission with the last response, unless its ACK has arrived."""
        if self._reply and self.state in ("proceeding", "completed"):
            self._repeat()

    def on_ack(self):
        """Take an ACK; return whether it belongs to this transaction, not to a dialog."""
        if self.state == "completed":
            self.state = "confirmed"
            self._after(0 if self._reliable else T4, self._terminate)  # I
        return self.state == "confirmed"

    def _terminate(self):
        if self.invite and self.state == "completed":
            log.debug("no ACK to the rejection of %r", self.keys[0])
        self.state = "terminated"
        self._end(self)

    def _repeat(self):
        self._send(self._reply, self._address)


class ServerTransactions:
    """The requests of the last 32 s."""

    def __init__(self, send, after):
        self._send, self._after = send, after
        self._transactions = {}
        self._merged = {}
        self.unverified = 0  # transactions of unverified peers

    def __len__(self):
        return len(self._transactions)

    def absorb(self, request):
        """Absorb a retransmission, or the ACK to a rejection; return whether it was one."""
        transaction = self._transactions.get(transaction_key(request))
        if transaction is None:
            return False
        if request.method() == "ACK":
            absorbed = transaction.on_ack()
            if absorbed:  # a proxy may send the INVITE again with a new branch: no merged request
                self._forget_merged(transaction)
            return absorbed
        transaction.on_repeat()
        return True

    def begin(self, request, unverified=False):
        """Begin and return the transaction of a request that `absorb` did not take."""
        keys = transaction_key(request), merge_key(request)
        transaction = ServerTransaction(request, keys, unverified, self._send, self._after,
                                        self._remove)
        self._transactions[keys[0]] = transaction
        self.unverified += unverified
        if transaction.invite and not request.to_tag:
            self._merged.setdefault(keys[1], transaction)
        request.transaction = transaction
        return transaction

    def is_merged(self, request):
        """Return whether an INVITE came on another path before (RFC 3261 8.2.2.2)."""
        first = self._merged.get(request.transaction.keys[1], request.transaction)
        return first is not request.transaction

    def cancelled_by(self, cancel, methods):
        """Return the transaction, of one of these methods, that a CANCEL is meant for, or None."""
        key = transaction_key(cancel)[:-1]
        found = (self._transactions.get((*key, method)) for method in methods
                 if method not in ("ACK", "CANCEL"))  # RFC 3261 9.2: all else is the same
        return next(filter(None, found), None)

    def _remove(self, transaction):
        if self._transactions.get(transaction.keys[0]) is transaction:  # H and I may both be due
            self.unverified -= transaction.unverified
            del self._transactions[transaction.keys[0]]
        self._forget_merged(transaction)

    def _forget_merged(self, transaction):
        if self._merged.get(transaction.keys[1]) is transaction:
            del self._merged[transaction.keys[1]]


def transaction_key(request):
    """Return the key that a request shares with its retransmissions (RFC 3261 17.2.3).

    The method is last; an ACK has its INVITE's. The key includes the source IP, which gets the
    responses: IOS numbers its branches, so others could guess one and occupy its transaction, or
    CANCEL it and learn our tag.
    """
    method = "INVITE" if request.method() == "ACK" else request.method()
    via, ip = request.via, request.source[0]
    if via.branch.startswith(MAGIC_COOKIE) and via.branch != MAGIC_COOKIE:
        return ip, via.branch, via.host.lower(), via.port or 5060, method
    # RFC 2543: no To tag in the key, because the ACK to a rejection has one and its INVITE has none
    return (ip, request.headers_all("Via")[0], request.uri, request.from_tag,
            request.header("Call-ID"), request.cseq[0], method)


def merge_key(request):
    return request.from_tag, request.to_tag, request.header("Call-ID"), request.cseq


class ClientTransactions:
    """Our own requests, resent until a response arrives (RFC 3261 17.1)."""

    def __init__(self, send, after):
        self._send, self._after = send, after
        self._waiting = {}  # (branch, method) -> on_final
        self._proceeding = set()  # the keys of INVITEs with a provisional response
        self._acks = {}  # key of an INVITE with a final response -> a function that sends its ACK

    def __len__(self):
        return len(self._waiting)

    def send(self, method, branch, data, address, on_final, reliable=False):
        """Send a request; on_final(response) is called once, with None after 64*T1 of silence.

        reliable: the transport retransmits by itself. An ACK has no response. The on_final of an
        INVITE returns a function that sends the ACK; each final response that arrives calls it.
        """
        if method == "ACK":
            self._send(data, address)
            return
        key = branch, method
        self._waiting[key] = on_final
        self._send(data, address)
        if not reliable:
            resend_while(lambda: key in self._waiting and key not in self._proceeding,
                         lambda: self._send(data, address), self._after,
                         limit=TIMEOUT if method == "INVITE" else T2)  # timers A, E
        self._after(TIMEOUT, self._give_up, key)  # timers B, F

    def _give_up(self, key):
        if key in self._proceeding:
            self._after(PROCEEDING_TIMEOUT, self._finish, key, None)
        else:
            self._finish(key, None)

    def on_response(self, response):
        """Take a response; return whether a request of ours waits for it."""
        try:
            key = response.via.branch, response.cseq[1]
        except ValueError:
            return False
        if len(response.headers_all("Via")) > 1:
            return False  # RFC 3261 8.1.3.3: a response with more Vias is not meant for us
        if key in self._acks:
            if response.status >= 200:
                self._acks[key]()
            return True
        if key not in self._waiting:
            return False
        if response.status >= 200:
            self._finish(key, response)
        elif key[1] == "INVITE":
            self._proceeding.add(key)
        return True

    def _finish(self, key, response):
        self._proceeding.discard(key)
        on_final = self._waiting.pop(key, None)
        if not on_final:
            return
        ack = on_final(response)
        if response is not None and key[1] == "INVITE":
            self._acks[key] = ack
            self._after(TIMEOUT, self._acks.pop, key)  # timers D, M
            ack()
