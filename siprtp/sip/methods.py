"""What each SIP method does: one function of (server, request) and one row in METHODS.

A function answers by server.respond, or raises the SIPError that is to be answered. `Allow` is
made of the table's keys.
"""

import logging
import secrets

from sip_message import SIPError, SIPMessage
from sip_response import response_address
from sip_utils import parse_params, q850_cause
from siprtp.dtmf import info_key
from siprtp.sip.dialog import Unacked
from siprtp.sip.session_timer import answer_expiry
from siprtp.sip.transaction import TIMEOUT, resend_while

log = logging.getLogger(__name__)

ACCEPT = ("Accept", "application/sdp")
SUPPORTED = ("Supported", "timer")
UNDERSTOOD = ("timer", "100rel")
NOT_ALLOWED = frozenset("MESSAGE PUBLISH REFER REGISTER SUBSCRIBE".split())  # 405, not 501


def on_invite(server, request):
    if request.to_tag:
        on_reinvite(server, request)
        return
    server.respond(request, 100)
    accepted = [value.partition(";")[0].strip().lower() for value in request.headers_all("Accept")]
    if accepted and not set(accepted) & {"application/sdp", "application/*", "*/*"}:
        raise SIPError(406, "", [ACCEPT])
    answer_expiry(request, False)  # or its refusal, before anything is set up
    server.calls.take(request)


def send_ringing(server, call):
    """Send 180, once a minute (RFC 3261 13.3.1.1); reliably where the caller insists (RFC 3262).

    A reliable one must carry an offer where the INVITE has none: that caller gets the 200 only.
    """
    headers = [("Contact", call.contact), ("Allow", ALLOW)]
    if "100rel" not in [option.lower() for option in call.invite.headers_all("Require")]:
        if call.state == "proceeding":
            server.respond(call.invite, 180, "", headers, to_tag=call.local_tag)
            server.calls.later(60, lambda call: send_ringing(server, call), call)
        return
    if call.media.flow.formats:
        call.rseq = 1 + secrets.randbits(16)
        headers += [("Require", "100rel"), ("RSeq", str(call.rseq))]
        ringing = bytes(server.respond(call.invite, 180, "", headers, to_tag=call.local_tag))
        resend_while(lambda: call.rseq and call.state == "proceeding",
                     lambda: server.reply(ringing, response_address(call.invite)),
                     server.after, limit=TIMEOUT)
        server.calls.later(TIMEOUT, lambda call: not_acknowledged(server, call), call)


def not_acknowledged(server, call):
    if call.rseq and call.state == "proceeding":
        server.calls.refuse(call, 504, "no PRACK")


def send_2xx(server, call, request, body, offered):
    """Answer an INVITE of a call with 200; offered: body is our offer, not our answer."""
    headers = [("Contact", call.contact), ("Allow", ALLOW), SUPPORTED, ACCEPT]
    headers += start_timer(call, request)
    ok = server.respond(request, 200, "", headers, body, call.local_tag)
    unacked = Unacked(request.cseq[0], bytes(ok), response_address(request), offered)
    call.on("answer", unacked)


def start_timer(call, request):
    """Start the session timer a request settles; return the headers of its 2xx."""
    expiry = answer_expiry(request, call.peer_updates)
    call.timer.start(expiry)
    return expiry.headers() if expiry else []


def on_reinvite(server, request):
    call = call_of(server, request)
    server.respond(request, 100)
    offer = next_offer(call, request)
    answer_expiry(request, False)
    body = server.calls.negotiate(call, offer)
    call.refresh(request)
    send_2xx(server, call, request, body, offered=offer is None)


def on_update(server, request):
    """RFC 3311 5.2."""
    call = call_of(server, request)
    offer = next_offer(call, request)
    answer_expiry(request, False)
    body = server.calls.negotiate(call, offer) if offer is not None else b""
    call.refresh(request)
    headers = [("Contact", call.contact), ("Allow", ALLOW), SUPPORTED]
    if call.state != "proceeding":  # RFC 4028 4: a session that is not there yet has no timer
        headers += start_timer(call, request)
    server.respond(request, 200, "", headers, body)


def next_offer(call, request):
    """Return the SDP of a re-INVITE or UPDATE, or None; SIPError while another is open."""
    offer = request.sdp()
    offering = offer is not None or request.method() == "INVITE"
    if offering and call.state == "proceeding":  # RFC 3261 14.2, RFC 3311 5.2
        raise SIPError(500, "", [("Retry-After", str(secrets.randbelow(11)))])
    if offering and call.unacked and call.unacked.offered:
        raise SIPError(491, "")
    return offer


def on_ack(server, request):
    call = server.calls.find(request)
    unacked = call and call.on_ack(request.cseq[0])
    if not unacked:
        log.debug("ACK for nothing that waits for one")
        return
    server.calls.on_ack(call, request)
    call.on("ack")
    if unacked.offered and not call.over:
        server.calls.take_answer(call, request)
    if call.bot and not call.over:
        call.bot.on_answered()


def on_bye(server, request):
    call = call_of(server, request)
    if call.state == "proceeding":  # RFC 3261 15.1.2
        server.respond(call.invite, 487, to_tag=call.local_tag)
    call.on("bye", why=with_cause("the caller hung up", request))
    headers = [("P-RTP-Stat", call.statistics)] if call.statistics else []
    server.respond(request, 200, "", headers)


def on_cancel(server, request):
    """RFC 3261 9.2: 487 for an INVITE that still waits; after a final reply no effect."""
    transaction = server.transactions.cancelled_by(request, METHODS)
    if transaction is None:
        raise SIPError(481, "")
    call = transaction.call
    server.respond(request, 200, to_tag=transaction.tag)
    if call and transaction.open:
        server.respond(call.invite, 487, to_tag=call.local_tag)
        call.on("cancel", why=with_cause("the caller gave up", request))


def with_cause(why, request):
    """Return why with the cause that a BYE or CANCEL gives."""
    cause = q850_cause(request)
    return f"{why} (Q.850 cause {cause})" if cause else why


def on_options(server, request):
    if request.to_tag:
        call_of(server, request)
    elif server.calls.is_full():
        raise SIPError(486, "")  # RFC 3261 11.2: what an INVITE would get
    server.respond(request, 200, "", [("Allow", ALLOW), ACCEPT, ("Accept-Encoding", "identity"),
                                      ("Accept-Language", "en"), SUPPORTED])


def on_info(server, request):
    call = call_of(server, request)
    if request.header("Info-Package"):
        raise SIPError(469, "", [("Recv-Info", "")])  # RFC 6086 4.2.2
    server.respond(request, 200)
    key = info_key(request.header("Content-Type", ""), request.body)
    if key:
        server.calls.on_key(call, key, "INFO")


def on_notify(server, request):
    call = call_of(server, request)
    event = request.header("Event", "").partition(";")[0].strip().lower()
    if event == "refer":
        on_referral_news(server, call, request)
    elif event == "telephone-event":
        server.respond(request, 200)
        key = call.notified.read(request.body)
        if key:
            server.calls.on_key(call, key, "NOTIFY")
    else:
        raise SIPError(489, "", [("Allow-Events", "telephone-event")])


def on_referral_news(server, call, notify):
    """RFC 3515 2.4.5: how far the transfer we asked for is, as the start of a response."""
    referral, event = call.referral, parse_params(notify.header("Event").split(";")[1:])
    if not referral or event.get("id", "") not in ("", str(referral.cseq)):
        raise SIPError(481, "")
    server.respond(notify, 200)
    news = SIPMessage(notify.body)
    state, *params = notify.header("Subscription-State", "").lower().split(";")
    if state.strip() != "terminated":
        referral.on_news(news.status or 100, news.reason)
        return
    call.referral = None
    if news.status >= 200:
        referral.on_news(news.status, news.reason)
    else:  # no verdict: it is on its way, or it is not known (RFC 6665 4.1.3)
        why = parse_params(params).get("reason", "noresource")
        verdict = {"noresource": 200 if news.status else 408, "rejected": 603}
        referral.on_news(verdict.get(why, 408), f"no more news: {why}")


def on_prack(server, request):
    call = call_of(server, request)
    acknowledged = f"{call.rseq} {call.invite.cseq[0]} INVITE"
    if not call.rseq or request.header("RAck", "").split() != acknowledged.split():
        raise SIPError(481, "")  # RFC 3262 3: no 18x of ours, or not that one
    call.rseq = None
    server.respond(request, 200)


def call_of(server, request):
    """Return the call an in-dialog request belongs to, its CSeq checked. Raises SIPError."""
    call = server.calls.find(request)
    if call is None or (call.over and request.method() not in ("BYE", "PRACK")):
        raise SIPError(481, "")
    number = request.cseq[0]
    if number < call.remote_cseq:
        raise SIPError(500, "CSeq Out of Order")  # RFC 3261 12.2.2
    call.remote_cseq = number
    return call


METHODS = {
    "INVITE": on_invite, "ACK": on_ack, "BYE": on_bye, "CANCEL": on_cancel,
    "OPTIONS": on_options, "UPDATE": on_update, "INFO": on_info, "NOTIFY": on_notify,
    "PRACK": on_prack,
}
ALLOW = ", ".join(METHODS)
