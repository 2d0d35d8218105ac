"""What each SIP method does: one function of (server, request) and one row in METHODS.

A function answers by server.respond, or raises the SIPError that is to be answered. `Allow` is
made of the table's keys.
Imports: dtmf, sip_dialog, sip_message, sip_response, sip_session_timer, sip_utils.
"""

import logging

from dtmf import info_key
from sip_dialog import Unacked
from sip_message import SIPError
from sip_response import response_address
from sip_session_timer import answer_expiry
from sip_utils import q850_cause

log = logging.getLogger(__name__)

ACCEPT = ("Accept", "application/sdp")
SUPPORTED = ("Supported", "timer")
# Whoever requires 100rel gets a 200 at once: RFC 3262 binds only the 18x that we do not send.
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
    if server.is_full():
        raise SIPError(486, "")
    answer_expiry(request, False)  # or its refusal, before anything is set up
    call, body = server.new_call(request)
    request.transaction.call = call
    server.calls.add(call)
    try:
        server.answer(call, body)
    except Exception:
        server.hang_up(call, "it could not be answered")  # leaves no row, thread or port
        raise


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
    body = server.negotiate(call, offer)
    call.refresh(request)
    send_2xx(server, call, request, body, offered=offer is None)


def on_update(server, request):
    """RFC 3311 5.2."""
    call = call_of(server, request)
    offer = next_offer(call, request)
    answer_expiry(request, False)
    body = server.negotiate(call, offer) if offer is not None else b""
    call.refresh(request)
    headers = [("Contact", call.contact), ("Allow", ALLOW), SUPPORTED]
    server.respond(request, 200, "", headers + start_timer(call, request), body)


def next_offer(call, request):
    """Return the SDP of a re-INVITE or UPDATE, or None; SIPError while another is open."""
    offer = request.sdp()
    offering = offer is not None or request.method() == "INVITE"
    if offering and call.state == "proceeding":  # RFC 3261 14.2, RFC 3311 5.2
        raise SIPError(500, "", [("Retry-After", "5")])
    if offering and call.unacked and call.unacked.offered:
        raise SIPError(491, "")
    return offer


def on_ack(server, request):
    call = server.calls.find(request)
    unacked = call and call.on_ack(request.cseq[0])
    if not unacked:
        log.debug("ACK for nothing that waits for one")
        return
    call.on("ack")
    if unacked.offered and not call.over:
        server.take_answer(call, request)


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
    server.respond(request, 200, to_tag=call.local_tag if call else "")
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
    elif server.is_full():
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
        server.on_key(call, key, "INFO")


def on_notify(server, request):
    call = call_of(server, request)
    event = request.header("Event", "").partition(";")[0].strip().lower()
    if event != "telephone-event":
        raise SIPError(489, "", [("Allow-Events", "telephone-event")])
    server.respond(request, 200)
    key = call.notified.read(request.body)
    if key:
        server.on_key(call, key, "NOTIFY")


def on_prack(server, request):
    raise SIPError(481, "")  # RFC 3262 3: it acknowledges no 18x of ours


def call_of(server, request):
    """Return the call an in-dialog request belongs to, its CSeq checked. Raises SIPError."""
    call = server.calls.find(request)
    if call is None or (call.over and request.method() != "BYE"):
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
