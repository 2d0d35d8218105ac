"""One INVITE dialog as its callee: the state table, the headers of its requests, its BYE.

A Dialog acts by functions that it is given; it has no socket, clock or thread of its own. All of
it runs in the SIP thread.
"""

import logging
import re
import weakref

from sip_response import response_address, serialize
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
from siprtp.sip.next_hop import Source, hop_transport, is_loose
from siprtp.sip.referral import Referral
from siprtp.sip.transaction import TIMEOUT, resend_while
from siprtp.sockets import host_port

log = logging.getLogger(__name__)

PLAIN_USER = re.compile(r"[A-Za-z0-9+._\-]+")


class Unacked:
    """A 2xx to an INVITE that waits for its ACK. offered: it carried our offer."""

    def __init__(self, cseq, data, address, offered):
        self.cseq, self.data, self.address, self.offered = cseq, data, address, offered
        self.sent = 1  # times
        self.give_up = None  # a function, while it waits

    def on_timeout(self):
        if self.give_up:
            self.give_up()


class Dialog:
    """One INVITE dialog, seen from the callee (RFC 3261 12.1.1).

    invite: the SIPMessage. host: our "ip:port" towards this caller, for Via and Contact.
    follows_source: whether requests may go to the caller's source instead of its Contact.
    The dialog acts by: send(data, address); after(seconds, function, *args); respond(request,
    code, reason, headers, body, to_tag); request(dialog, method, branch, data, next_hop,
    on_final); end_media(dialog), called once, when the media must end; remove(dialog), called
    when the dialog has ended too.
    """

    def __init__(self, invite, host, send, after, respond, request, end_media, remove,
                 follows_source=True):
        self.state, self.why, self.cause = "proceeding", "", 16
        self.p_rtp_stat = ""  # the value of P-RTP-Stat, once the media have ended
        self.transport = "UDP" if invite.connection is None else "TCP"
        self.invite, self.host = invite, host
        self.send, self.after, self.respond, self._request = send, after, respond, request
        self._on_media_end, self._remove = end_media, remove
        self.call_id, self.remote_tag = invite.header("Call-ID"), invite.from_tag
        self.local_tag = new_tag()
        self.remote = invite.header("From")
        self.local = f"{invite.header('To')};tag={self.local_tag}"
        self.remote_cseq, self.local_cseq = invite.cseq[0], 0
        self.routes = invite.headers_all("Record-Route")  # in order, for a UAS
        self.target = parse_address(self.remote).uri  # RFC 2543 clients may send no Contact
        self.caller, self.called = get_caller_number(invite), get_called_number(invite)
        self.connected, self.identity = self.caller, get_identity(invite)
        self.peer_updates, self._follows_source = False, follows_source
        self.follow(invite)
        self.update_peer(invite)
        self.notified, self.keys = NotifyReader(), Keys()
        self.ringing, self.rseq = False, None  # rseq: of a 180 that waits for its PRACK
        self.acked = False  # the peer has ACKed a 2xx of ours
        self.has_had_audio = False  # offer and answer have agreed on some
        self.referral = None  # the Referral in progress
        self.unacked = None  # the Unacked of the last 2xx
        self.offering = False  # a re-INVITE of ours waits for its final response
        self.media = self.negotiation = self.timer = self.bot = None  # siprtp.calls joins them
        self.answer_sdp = b""  # of the 200 that a bot's answer will send
        self.began = None  # when it was answered, by the server's clock

    def __str__(self):
        return f"call from {self.caller!r}, Call-ID {self.call_id[:100]!a}"

    @property
    def key(self):
        return self.call_id, self.local_tag, self.remote_tag

    @property
    def over(self):
        """True once the dialog accepts nothing but a BYE."""
        return self.state in ("hanging up", "closing", "ended")

    @property
    def contact(self):
        """Our Contact: our address, with the called user if that needs no escaping."""
        user = parse_uri(self.invite.uri).user
        user = f"{user}@" if PLAIN_USER.fullmatch(user) else ""
        return f"<sip:{user}{self.host}{';transport=tcp' if self.transport == 'TCP' else ''}>"

    def on(self, event, *args, why="", cause=16):
        """Move by TRANSITIONS and act; return whether the event has a row in this state.

        why: for the log; cause: of ITU-T Q.850, for our BYE. The first event's are kept.
        """
        row = TRANSITIONS.get((self.state, event))
        if row is None:
            log.debug("%s: event %r ignored in state %r", self, event, self.state)
            return False
        self.state, action = row
        if why and not self.why:
            self.why, self.cause = why, cause
        if action:
            action(self, *args)
        return True

    def follow(self, request):
        """Learn from an authentic request where the peer is; a caller may move to another network.

        RFC 3261 12.2.1.1 names the remote target alone, which does not reach a phone behind NAT.
        """
        self.source = Source.of(request)

    @property
    def source_hop(self):
        """Where our requests go instead of to the remote target: (ip, port), TCPHop or None."""
        if self.routes or not self._follows_source or not self.source.replaces(self.target):
            return None
        return self.source.address

    def update_peer(self, message):
        """Update what we know of the peer from an INVITE, an UPDATE or the 2xx to one.

        Its Contact becomes the remote target (RFC 3261 12.2.2); it may name another party, and it
        tells whether the peer accepts UPDATE. Raises ValueError.
        """
        contacts = message.headers_all("Contact")
        if contacts:
            self.target = request_uri(parse_address(contacts[0]).uri)
        if message.header("Allow") is not None or message.method() == "UPDATE":
            self.peer_updates = (message.method() == "UPDATE"
                                 or "UPDATE" in message.headers_all("Allow"))
        told = message.header("P-Asserted-Identity") or message.header("Remote-Party-ID")
        if told and get_caller_number(message) not in ("", self.connected):
            self.connected, self.identity = get_caller_number(message), get_identity(message)
            log.info("%s: now connected to %r", self, self.connected)

    def take_unacked(self, cseq):
        """Stop resending at an ACK; return the Unacked it confirms, None for a stray ACK."""
        unacked = self.unacked
        if unacked is None or unacked.cseq != cseq:
            return None
        self._stop_resending()
        return unacked

    def on_2xx_sent(self, request, data, offered):
        """Keep a 2xx for resending until its ACK arrives."""
        self.on("answer", Unacked(request.cseq[0], data, response_address(request), offered))

    def hang_up(self, why, cause=16, status=480):
        """End the call from our side: BYE (once its 200 is ACKed), or status before the answer.

        cause: of ITU-T Q.850, for the BYE.
        """
        if self.state == "proceeding":
            self.reject(status, why)
        else:
            self.on("hang up", why=why, cause=cause)

    def reject(self, status, why):
        """Answer the INVITE of an unanswered call with a final status >= 300."""
        headers = [("Retry-After", "10")] if status == 503 else []
        self.respond(self.invite, status, "", headers, to_tag=self.local_tag)
        self.on("hang up", why=f"{why}: {status}")

    def later(self, seconds, function, *args):
        """Call function(dialog, *args) later, unless the call is over by then.

        The timer does not keep the dialog in memory.
        """
        reference = weakref.ref(self)

        def run():
            dialog = reference()
            if dialog and not dialog.over:
                function(dialog, *args)

        self.after(seconds, run)

    # Actions of TRANSITIONS

    def start_resending(self, unacked):
        """Resend the 2xx T1, 2*T1 ... T2 until the ACK; give up at 64*T1 (RFC 3261 13.3.1.4)."""
        self._stop_resending()  # the previous 2xx
        self.unacked, unacked.give_up = unacked, self._on_no_ack
        resend_while(lambda: self.unacked is unacked, self._resend, self.after)
        self.after(TIMEOUT, unacked.on_timeout)  # the timer keeps the Unacked, not the dialog

    def _resend(self):
        self.unacked.sent += 1
        self.send(self.unacked.data, self.unacked.address)

    def _on_no_ack(self):
        why = (f"no ACK to our 200, sent {self.unacked.sent} times to "
               f"{host_port(*self.unacked.address[:2])}")
        self.on("no ack", why=why, cause=102)  # recovery on timer expiry

    def _stop_resending(self):
        if self.unacked:
            self.unacked.give_up = None
        self.unacked = None

    def send_bye(self):
        """End the media and send BYE."""
        self._end_media()
        headers = [("Reason", f"Q.850;cause={self.cause}"), ("P-RTP-Stat", self.p_rtp_stat)]
        self.send_request("BYE", [h for h in headers if h[1]], self._on_bye_answer)

    def _on_bye_answer(self, response):
        # RFC 3261 15.1.1: whatever the answer, or none, the dialog is over
        log.debug("%s: BYE answered with %s", self, response and response.status)
        if response is None and self.acked:  # a peer that never ACKed is not expected to answer
            hop = self.source_hop
            log.info("%s: our BYE to %.99a got no answer", self,
                     host_port(*hop[:2]) if hop else (self.routes or [self.target])[0])
        self.on("bye done")

    def end(self):
        """End the media and leave the call table."""
        self._end_media()
        self._remove(self)

    def _end_media(self):
        self._stop_resending()
        end_media, self._on_media_end = self._on_media_end, lambda dialog: None
        end_media(self)

    # Our own requests

    def refer(self, uri, tell):
        """Ask the peer to call uri in our place (RFC 3515).

        tell(status, reason) gets 100 once the peer accepts, then what its NOTIFYs report; or the
        status of its rejection.
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
        if status == 481:  # RFC 3261 12.2.1.2: the peer has no such dialog
            self.on("hang up", why="REFER answered with 481")

    def send_request(self, method, headers, on_final):
        """Send a request in the dialog; on_final(response) gets None after 64*T1 of silence."""
        self._request(self, method, *self.build_request(method, headers), on_final)

    @property
    def may_offer(self):
        """False while an INVITE is in progress, in either direction (RFC 3261 14.1)."""
        return not (self.unacked or self.offering)

    def reinvite(self, offer, headers, on_final):
        """Send a re-INVITE with an offer; on_final as in send_request. The final gets its ACK."""
        branch, data, next_hop = self.build_request("INVITE", headers, offer)
        cseq, self.offering = self.local_cseq, True

        def on_response(response):
            self.offering = False
            on_final(response)
            if response is None:
                return None
            # RFC 3261 13.2.2.4: the ACK to a 2xx has a branch of its own
            ack = self.build_request("ACK", cseq=cseq,
                                     branch=branch if response.status >= 300 else None)
            return lambda: self._request(self, "ACK", *ack, lambda response: None)

        self._request(self, "INVITE", branch, data, next_hop, on_response)

    def build_request(self, method, headers=(), body=b"", cseq=None, branch=None):
        """Return (branch, bytes, next hop) of a request in the dialog.

        RFC 3261 12.2.1.1: the next hop is the first route or the remote target, both URIs; a first
        route without lr is a strict router and becomes the Request-URI. For a peer behind NAT it
        is the `source_hop`. cseq, branch: of an ACK; other requests get new ones.
        """
        uri, routes = self.target, list(self.routes)
        if routes:
            next_hop = parse_address(routes[0]).uri
            if not is_loose(next_hop):
                routes = routes[1:] + [f"<{uri}>"]
                uri = next_hop
        else:
            next_hop = self.source_hop or uri
        if cseq is None:
            self.local_cseq += 1
            cseq = self.local_cseq
        branch = branch or new_branch()
        # before the ACK a request goes back to the source of the INVITE, by the same transport
        transport = hop_transport(next_hop, self.transport) if self.acked else self.transport
        lines = [("Via", f"SIP/2.0/{transport} {self.host};branch={branch};rport"),
                 ("Max-Forwards", "70")]
        lines += [("Route", route) for route in routes]
        lines += [("From", self.local), ("To", self.remote), ("Call-ID", self.call_id),
                  ("CSeq", f"{cseq} {method}")]
        data = serialize(f"{method} {uri} SIP/2.0", lines + list(headers), body)
        return branch, data, next_hop


# (state, event): (next state, action or None). An event without a row is ignored.
# RFC 3261 15: the callee sends no BYE before it has the ACK or has waited 64*T1 for it.
TRANSITIONS = {
    ("proceeding", "answer"): ("answered", Dialog.start_resending),
    ("proceeding", "cancel"): ("ended", Dialog.end),
    ("proceeding", "bye"): ("ended", Dialog.end),
    ("proceeding", "hang up"): ("ended", Dialog.end),
    ("answered", "answer"): ("answered", Dialog.start_resending),  # a re-INVITE overtook its ACK
    ("answered", "ack"): ("confirmed", None),
    ("answered", "bye"): ("ended", Dialog.end),
    ("answered", "no ack"): ("closing", Dialog.send_bye),
    ("answered", "hang up"): ("hanging up", None),
    ("hanging up", "ack"): ("closing", Dialog.send_bye),
    ("hanging up", "bye"): ("ended", Dialog.end),
    ("hanging up", "no ack"): ("closing", Dialog.send_bye),
    ("confirmed", "answer"): ("answered", Dialog.start_resending),  # re-INVITE
    ("confirmed", "hang up"): ("closing", Dialog.send_bye),
    ("confirmed", "bye"): ("ended", Dialog.end),
    ("closing", "bye"): ("ended", Dialog.end),  # the two BYEs crossed
    ("closing", "bye done"): ("ended", Dialog.end),
}
