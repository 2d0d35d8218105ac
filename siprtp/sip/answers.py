"""Answers to the INVITE of a dialog: 180 (also reliable, RFC 3262) and the 2xx with its timer."""

import secrets

from sip_response import response_address
from siprtp.sip.session_timer import answer_expiry
from siprtp.sip.transaction import TIMEOUT, resend_while

# The keys of siprtp.sip.methods.METHODS, in its order; a test compares them
ALLOW = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO, NOTIFY, PRACK"
ACCEPT = ("Accept", "application/sdp")
SUPPORTED = ("Supported", "timer")
RING_AGAIN = 60  # seconds between two 180, RFC 3261 13.3.1.1


def send_ringing(dialog):
    """Send 180, once a minute; reliably if the caller requires it.

    A reliable one must carry an offer if the INVITE has none: that caller gets the 200 only.
    """
    headers = [("Contact", dialog.contact), ("Allow", ALLOW)]
    if "100rel" not in [option.lower() for option in dialog.invite.headers_all("Require")]:
        if dialog.state == "proceeding":
            dialog.respond(dialog.invite, 180, "", headers, to_tag=dialog.local_tag)
            dialog.later(RING_AGAIN, send_ringing)
    elif dialog.media.flow.formats:
        _send_reliable_ringing(dialog, headers)


def _send_reliable_ringing(dialog, headers):
    dialog.rseq = 1 + secrets.randbits(16)
    headers += [("Require", "100rel"), ("RSeq", str(dialog.rseq))]
    ringing = bytes(dialog.respond(dialog.invite, 180, "", headers, to_tag=dialog.local_tag))
    resend_while(lambda: dialog.rseq and dialog.state == "proceeding",
                 lambda: dialog.send(ringing, response_address(dialog.invite)),
                 dialog.after, limit=TIMEOUT)
    dialog.later(TIMEOUT, _reject_without_prack)


def _reject_without_prack(dialog):
    if dialog.rseq and dialog.state == "proceeding":
        dialog.reject(504, "no PRACK")


def send_2xx(dialog, request, body, offered):
    """Answer an INVITE of a dialog with 200. offered: body is our offer, not our answer."""
    headers = [("Contact", dialog.contact), ("Allow", ALLOW), SUPPORTED]
    headers += start_timer(dialog, request)
    ok = dialog.respond(request, 200, "", headers, body, dialog.local_tag)
    dialog.on_2xx_sent(request, bytes(ok), offered)


def start_timer(dialog, request):
    """Start the session timer that a request settles; return the headers of its 2xx."""
    expiry = answer_expiry(request)
    dialog.timer.start(expiry)
    return expiry.headers() if expiry else []
