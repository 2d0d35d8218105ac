"""One call as its callee: the dialog, its state table, its own requests; and the call table.

A Call takes what it needs to act as functions and has no socket, clock or thread of its own.
All of it runs in the SIP thread; only CallTable may be read from others.
"""

import logging
import re
import threading

from sip_response import SIP_PORT, serialize
from sip_utils import (
    get_called_number,
    get_caller_number,
    get_identity,
    new_branch,
    new_tag,
    parse_address,
    parse_uri,
    request_uri,
)
from siprtp.dtmf import Keys, NotifyReader
from siprtp.sip.transaction import TIMEOUT, resend_while

log = logging.getLogger(__name__)

PLAIN_USER = re.compile(r"[A-Za-z0-9+._\-]+")

# (state, event): (next state, action or None). An event without a row changes nothing.
# RFC 3261 15: no BYE of ours before the ACK, or 64*T1 without one.
TRANSITIONS = {
    ("proceeding", "answer"): ("answered", "start_resending"),
    ("proceeding", "cancel"): ("ended", "finish"),
    ("proceeding", "bye"): ("ended", "finish"),
    ("proceeding", "hang up"): ("ended", "finish"),
    ("answered", "answer"): ("answered", "start_resending"),  # a re-INVITE overtook its ACK
    ("answered", "ack"): ("confirmed", None),
    ("answered", "bye"): ("ended", "finish"),
    ("answered", "no ack"): ("closing", "send_bye"),
    ("answered", "hang up"): ("hanging up", None),
    ("hanging up", "ack"): ("closing", "send_bye"),
    ("hanging up", "bye"): ("ended", "finish"),
    ("hanging up", "no ack"): ("closing", "send_bye"),
    ("confirmed", "answer"): ("answered", "start_resending"),  # re-INVITE
    ("confirmed", "hang up"): ("closing", "send_bye"),
    ("confirmed", "bye"): ("ended", "finish"),
    ("closing", "bye"): ("ended", "finish"),  # the two BYEs crossed
    ("closing", "bye done"): ("ended", "finish"),
}


class Unacked:
    """A 2xx to an INVITE that waits for its ACK. offered: it carried our offer."""

    def __init__(self, cseq, data, address, offered):
        self.cseq, self.data, self.address, self.offered = cseq, data, address, offered
        self.give_up = None  # a function, for as long as it waits

    def on_timeout(self):
        if self.give_up:
            self.give_up()


class Referral:
    """A REFER of ours (RFC 3515): tell(status, reason) gets the news up to the verdict."""

    def __init__(self, cseq, tell):
        self.cseq, self._tell, self._status = cseq, tell, 0

    def on_news(self, status, reason):
        """Tell what a response or NOTIFY says; they may overtake each other."""
        if self._status < 200:
            self._status = status
            self._tell(status, reason)


class Call:
    """One INVITE dialog, seen from the callee (RFC 3261 12.1.1).

    invite: the SIPMessage. host: our "ip:port" towards this caller, for Via and Contact.
    What the dialog acts by: send(data, address); after(seconds, function, *args);
    request(call, method, branch, data, next_hop, on_final); release(call), once, when the media
    are to end; remove(call), when the dialog has ended too.
    """

    def __init__(self, invite, host, send, after, request, release, remove):
        self.state, self.why, self.cause = "proceeding", "", 16
        self.statistics = ""  # of the media, as P-RTP-Stat tells them, once they have ended
        self.transport = "UDP" if invite.connection is None else "TCP"
        self.invite, self.host = invite, host
        self._send, self._after, self._request = send, after, request
        self._release, self._remove = release, remove
        self.call_id, self.remote_tag = invite.header("Call-ID"), invite.from_tag
        self.local_tag = new_tag()
        self.remote = invite.header("From")
        self.local = f"{invite.header('To')};tag={self.local_tag}"
        self.remote_cseq, self.local_cseq = invite.cseq[0], 0
        self.routes = invite.headers_all("Record-Route")  # in order, for a UAS
        self.target = parse_address(self.remote).uri  # RFC 2543 clients may send no Contact
        self.caller, self.called = get_caller_number(invite), get_called_number(invite)
        self.connected, self.identity = self.caller, get_identity(invite)
        self.connection, self.peer_updates = None, False
        self.refresh(invite)
        self.notified, self.keys = NotifyReader(), Keys()
        self.ringing, self.rseq = False, None  # rseq: of a 180 that waits for its PRACK
        self.acked = False  # some 2xx of ours was
        self.referral = None  # the Referral that is followed
        self.unacked = None  # the Unacked of the last 2xx
        self.media = self.session = self.timer = self.bot = None  # what the server joins to it
        self.body = b""  # of the 200 that a bot will send
        self.began = None  # when it was answered, by the server's clock

    def __str__(self):
        return f"call from {self.caller!r}, Call-ID {self.call_id[:100]!a}"

    @property
    def key(self):
        return self.call_id, self.local_tag, self.remote_tag

    @property
    def over(self):
        """True once nothing but a BYE is worth answering."""
        return self.state in ("hanging up", "closing", "ended")

    @property
    def contact(self):
        """Our Contact: the user that was called, where that needs no escaping, at our address."""
        user = parse_uri(self.invite.uri).user
        user = f"{user}@" if PLAIN_USER.fullmatch(user) else ""
        return f"<sip:{user}{self.host}{';transport=tcp' if self.transport == 'TCP' else ''}>"

    def on(self, event, *args, why="", cause=16):
        """Move by TRANSITIONS and act; return whether the event had a row in this state.

        why: for the log; cause: of ITU-T Q.850, for our BYE. The first event that says so counts.
        """
        row = TRANSITIONS.get((self.state, event))
        if row is None:
            log.debug("%s: %s while %s changes nothing", self, event, self.state)
            return False
        self.state, action = row
        if why and not self.why:
            self.why, self.cause = why, cause
        if action:
            getattr(self, action)(*args)
        return True

    def refresh(self, message):
        """Take what an INVITE, an UPDATE or the 2xx to one tells anew of the other side.

        Its Contact is the remote target (RFC 3261 12.2.2), its identity whom we are connected to,
        its connection the one to use; and whether it takes UPDATE. Raises ValueError.
        """
        contacts = message.headers_all("Contact")
        if contacts:
            self.target = request_uri(parse_address(contacts[0]).uri)
        self.connection = message.connection
        if message.header("Allow") is not None or message.method() == "UPDATE":
            self.peer_updates = (message.method() == "UPDATE"
                                 or "UPDATE" in message.headers_all("Allow"))
        told = message.header("P-Asserted-Identity") or message.header("Remote-Party-ID")
        if told and get_caller_number(message) not in ("", self.connected):
            self.connected, self.identity = get_caller_number(message), get_identity(message)
            log.info("%s: connected with %r now", self, self.connected)

    def on_ack(self, cseq):
        """Take an ACK; return the Unacked it confirms, None for a repeat or a stray."""
        unacked = self.unacked
        if unacked is None or unacked.cseq != cseq:
            return None
        self._stop_resending()
        return unacked

    # actions

    def start_resending(self, unacked):
        """Resend the 2xx T1, 2*T1 ... T2 until the ACK; give up at 64*T1 (RFC 3261 13.3.1.4)."""
        self._stop_resending()  # of the one before
        self.unacked, unacked.give_up = unacked, self._no_ack
        resend_while(lambda: self.unacked is unacked,
                     lambda: self._send(unacked.data, unacked.address), self._after)
        self._after(TIMEOUT, unacked.on_timeout)  # it alone is kept so long, not the call

    def _no_ack(self):
        self.on("no ack", why="no ACK", cause=102)  # recovery on timer expiry

    def _stop_resending(self):
        if self.unacked:
            self.unacked.give_up = None
        self.unacked = None

    def send_bye(self):
        """End the media and ask the other side to end the call."""
        self._end_media()
        headers = [("Reason", f"Q.850;cause={self.cause}"), ("P-RTP-Stat", self.statistics)]
        self.send_request("BYE", [h for h in headers if h[1]], self._on_bye_answer)

    def _on_bye_answer(self, response):
        # RFC 3261 15.1.1: whatever the answer, or none, the dialog is over
        log.debug("%s: BYE answered with %s", self, response and response.status)
        if response is None and self.acked:  # else it was not to be
            log.info("%s: no answer to our BYE, to %.99a", self,
                     self.routes[0] if self.routes else self.target)
        self.on("bye done")

    def finish(self):
        """End the call for good."""
        self._end_media()
        self._remove(self)

    def _end_media(self):
        self._stop_resending()
        release, self._release = self._release, lambda call: None
        release(self)

    # our own requests

    def refer(self, uri, tell):
        """Ask the other side to call uri in our place (RFC 3515).

        tell(status, reason): 100 once it is accepted, what the NOTIFYs say; or the refusal.
        """
        self.referral = referral = Referral(self.local_cseq + 1, tell)
        self.send_request("REFER", [
            ("Contact", self.contact), ("Refer-To", f"<{uri}>"), ("Referred-By", self.contact),
        ], lambda response: self._on_refer_answer(referral, response))

    def _on_refer_answer(self, referral, response):
        status, reason = (response.status, response.reason) if response else (408, "")
        referral.on_news(100 if status < 300 else status, reason)
        if status >= 300 and self.referral is referral:
            self.referral = None
        if status == 481:  # RFC 3261 12.2.1.2: they know no such dialog any more
            self.on("hang up", why="REFER answered with 481")

    def send_request(self, method, headers, on_final):
        """Send a request in the dialog; on_final(response) has None for no answer in 64*T1."""
        self._request(self, method, *self.build_request(method, headers), on_final)

    def build_request(self, method, headers=()):
        """Return (branch, bytes, next hop as a URI) of a request in the dialog.

        RFC 3261 12.2.1.1: the next hop is the first route or the remote target, never the source
        of a packet; a first route without lr is a strict router and becomes the Request-URI.
        """
        uri, routes = self.target, list(self.routes)
        if routes:
            next_hop = parse_address(routes[0]).uri
            if not is_loose(next_hop):
                routes = routes[1:] + [f"<{uri}>"]
                uri = next_hop
        else:
            next_hop = uri
        self.local_cseq += 1
        branch = new_branch()
        transport = hop_transport(next_hop, self.transport)
        lines = [("Via", f"SIP/2.0/{transport} {self.host};branch={branch};rport"),
                 ("Max-Forwards", "70")]
        lines += [("Route", route) for route in routes]
        lines += [("From", self.local), ("To", self.remote), ("Call-ID", self.call_id),
                  ("CSeq", f"{self.local_cseq} {method}")]
        data = serialize(f"{method} {uri} SIP/2.0", lines + list(headers))
        return branch, data, next_hop


def is_loose(uri):
    """Say whether a route's URI is a loose router's (RFC 3261 19.1.1)."""
    try:
        return "lr" in parse_uri(uri).params
    except ValueError:
        return True


def hop_transport(uri, default):
    """Return "UDP" or "TCP": what a URI asks for, else default, what the call came by."""
    try:
        wanted = parse_uri(uri).params.get("transport", default).upper()
    except ValueError:
        wanted = default
    return "TCP" if wanted == "TCP" else "UDP"


def hop_address(uri):
    """Return (host, port) a SIP URI is sent to: maddr before host, 5060 if no port is written.

    Raises ValueError for what is no SIP URI.
    """
    parsed = parse_uri(uri)
    host = parsed.params.get("maddr") or parsed.host
    if not 0 < len(host) < 256:
        raise ValueError("no host in the URI, or none that can be")
    return host.strip("[]"), parsed.port or SIP_PORT


class CallTable:
    """The calls that are up, by Call-ID, our tag and theirs."""

    def __init__(self):
        self._lock = threading.Lock()
        self._calls = {}

    def add(self, call):
        with self._lock:
            self._calls[call.key] = call

    def remove(self, call):
        with self._lock:
            self._calls.pop(call.key, None)

    def find(self, request):
        """Return the call a request belongs to, or None."""
        with self._lock:
            return self._calls.get((request.header("Call-ID"), request.to_tag, request.from_tag))

    def __len__(self):
        with self._lock:
            return len(self._calls)

    def __iter__(self):
        with self._lock:
            return iter(list(self._calls.values()))
