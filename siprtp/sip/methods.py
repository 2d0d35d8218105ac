"""What each SIP method does: one function of (context, request) and one row in METHODS.

A function answers by context.respond, or raises the SIPError to answer with. The context is the
UAS: it offers respond(request, status, ...), `calls` and `transactions`.
"""

import logging
import secrets

from sip_message import SIPError
from sip_utils import q850_cause
from siprtp.dtmf import INFO_TYPES, info_keys
from siprtp.logs import call_id
from siprtp.sip.answers import ACCEPT, ALLOW, SUPPORTED, send_2xx, start_timer
from siprtp.sip.referral import on_refer_notify
from siprtp.sip.session_timer import answer_expiry

log = logging.getLogger(__name__)

ACCEPTABLE = {"application/sdp", "application/*", "*/*"}  # values of Accept that we can satisfy


def on_invite(context, request):
    if request.to_tag:
        on_reinvite(context, request)
        return
    accepted = [value.partition(";")[0].strip().lower() for value in request.headers_all("Accept")]
    if accepted and not set(accepted) & ACCEPTABLE:
        raise SIPError(406, "", [ACCEPT])
    answer_expiry(request)  # raises 422 or 400 before anything is set up
    context.calls.take(request)


def on_reinvite(context, request):
    dialog = dialog_of(context, request)
    offer = next_offer(dialog, request)
    answer_expiry(request)
    body = context.calls.negotiate(dialog, offer)
    dialog.update_peer(request)
    send_2xx(dialog, request, body, offered=offer is None)


def on_update(context, request):
    """RFC 3311 5.2."""
    dialog = dialog_of(context, request)
    offer = next_offer(dialog, request)
    answer_expiry(request)
    body = context.calls.negotiate(dialog, offer) if offer is not None else b""
    dialog.update_peer(request)
    headers = [("Contact", dialog.contact), ("Allow", ALLOW), SUPPORTED]
    if dialog.state != "proceeding":  # RFC 4028 4: before the answer a session has no timer
        headers += start_timer(dialog, request)
    context.respond(request, 200, "", headers, body)


def next_offer(dialog, request):
    """Return the SDP of a re-INVITE or UPDATE, or None; raise SIPError while an offer is open."""
    offer = request.sdp()
    offering = offer is not None or request.method() == "INVITE"
    if offering and dialog.state == "proceeding":  # RFC 3261 14.2, RFC 3311 5.2
        raise SIPError(500, "", [("Retry-After", str(secrets.randbelow(11)))])
    if offering and (dialog.offering or (dialog.unacked and dialog.unacked.offered)):
        raise SIPError(491, "")  # RFC 3261 14.2
    return offer


def on_ack(context, request):
    dialog = context.calls.find(request)
    unacked = dialog and dialog.take_unacked(request.cseq[0])
    if not unacked:
        log.debug("ACK dropped: no 2xx waits for it; Call-ID %a", call_id(request))
        return
    if not dialog.acked or request.cseq[0] >= dialog.remote_cseq:  # no later one overtook it
        context.calls.follow_peer(dialog, request)
    context.calls.verify_caller(dialog, request)
    dialog.on("ack")
    if unacked.offered and not dialog.over:
        context.calls.take_answer(dialog, request)
    if dialog.bot and not dialog.over:
        dialog.bot.on_answered()


def on_bye(context, request):
    dialog = dialog_of(context, request)
    if dialog.state == "proceeding":  # RFC 3261 15.1.2
        context.respond(dialog.invite, 487, to_tag=dialog.local_tag)
    dialog.on("bye", why=with_cause("the caller hung up", request))
    headers = [("P-RTP-Stat", dialog.p_rtp_stat)] if dialog.p_rtp_stat else []
    context.respond(request, 200, "", headers)


def on_cancel(context, request):
    """RFC 3261 9.2: 487 for an INVITE without a final response; no effect after one."""
    transaction = context.transactions.cancelled_by(request, METHODS)
    if transaction is None:
        raise SIPError(481, "")
    dialog, invite = transaction.dialog, context.stop_looking_up(transaction)
    context.respond(request, 200, to_tag=transaction.tag)
    if invite:
        context.respond(invite, 487)
    if dialog and transaction.open:
        context.respond(dialog.invite, 487, to_tag=dialog.local_tag)
        dialog.on("cancel", why=with_cause("the caller cancelled", request))


def with_cause(why, request):
    """Return why, with the Q.850 cause that a BYE or CANCEL gives."""
    cause = q850_cause(request)
    return f"{why} (Q.850 cause {cause})" if cause else why


def on_options(context, request):
    if request.to_tag:
        dialog_of(context, request)
    elif context.calls.is_full():
        raise SIPError(486, "")  # RFC 3261 11.2: the status an INVITE would get
    context.respond(request, 200, "", [("Allow", ALLOW), ACCEPT, ("Accept-Encoding", "identity"),
                                       ("Accept-Language", "en"), SUPPORTED])


def on_info(context, request):
    dialog = dialog_of(context, request)
    if request.header("Info-Package"):
        raise SIPError(469, "", [("Recv-Info", "")])  # RFC 6086 4.2.2
    keys = info_keys(request.header("Content-Type", ""), request.body)
    if keys is None and request.body.strip() and not request.body_is_optional():
        raise SIPError(415, "", [("Accept", ", ".join(INFO_TYPES))])  # RFC 3261 8.2.3
    context.respond(request, 200)
    for key in keys or "":
        context.calls.on_key(dialog, key, "INFO")


def on_notify(context, request):
    dialog = dialog_of(context, request)
    event = request.header("Event", "").partition(";")[0].strip().lower()
    if event == "refer":
        on_refer_notify(context, dialog, request)
    elif event == "telephone-event":
        context.respond(request, 200)
        key = dialog.notified.read(request.body)
        if key:
            context.calls.on_key(dialog, key, "NOTIFY")
    else:
        raise SIPError(489, "", [("Allow-Events", "telephone-event")])


def on_prack(context, request):
    dialog = dialog_of(context, request)
    acknowledged = f"{dialog.rseq} {dialog.invite.cseq[0]} INVITE"
    if not dialog.rseq or request.header("RAck", "").split() != acknowledged.split():
        raise SIPError(481, "")  # RFC 3262 3: it acknowledges no 18x of ours
    dialog.rseq = None
    context.respond(request, 200)


def dialog_of(context, request):
    """Return the dialog an in-dialog request belongs to, its CSeq checked. Raises SIPError."""
    dialog = context.calls.find(request)
    if dialog is None or (dialog.over and request.method() not in ("BYE", "PRACK")):
        raise SIPError(481, "")
    number = request.cseq[0]
    if number < dialog.remote_cseq:
        raise SIPError(500, "CSeq Out of Order")  # RFC 3261 12.2.2
    if dialog.acked and number > dialog.remote_cseq:  # not a replay of an earlier request
        context.calls.follow_peer(dialog, request)
    dialog.remote_cseq = number
    return dialog


METHODS = {
    "INVITE": on_invite, "ACK": on_ack, "BYE": on_bye, "CANCEL": on_cancel,
    "OPTIONS": on_options, "UPDATE": on_update, "INFO": on_info, "NOTIFY": on_notify,
    "PRACK": on_prack,
}
