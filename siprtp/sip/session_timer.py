"""Session timers (RFC 4028): the server ends a call that its peer stops refreshing.

The caller refreshes if it can. If it asks us to, we refresh by UPDATE, or by re-INVITE if it does
not take UPDATE.
"""

import logging
from typing import NamedTuple

from sip_message import SIPError
from sip_utils import DIGITS, parse_params

log = logging.getLogger(__name__)

MIN_SE = 90  # seconds, the least RFC 4028 allows
LONGEST = 86400  # seconds, the longest interval we propose
STEP = 60  # seconds that a timer waits at a time
RETRY_SECONDS = 4  # before we repeat a refresh that crossed another request


class Expiry(NamedTuple):
    """What a 2xx settles: how many seconds the session lasts, and which side refreshes it."""

    seconds: int
    ours: bool  # we are the refresher

    def headers(self):
        """Return the headers for our 2xx."""
        if self.ours:
            return [("Session-Expires", f"{self.seconds};refresher=uas")]
        return [("Session-Expires", f"{self.seconds};refresher=uac"), ("Require", "timer")]


def read_session_expires(message):
    """Return (seconds, refresher or "") of a Session-Expires, or None. Raises ValueError."""
    value = message.header("Session-Expires")
    if value is None:
        return None
    seconds, *params = value.split(";")
    if not DIGITS.fullmatch(seconds.strip()) or int(seconds) > 0xFFFFFFFF:
        raise ValueError("Malformed Session-Expires")
    return int(seconds), parse_params(params).get("refresher", "").lower()


def answer_expiry(request):
    """Return the Expiry of our 2xx to an INVITE or UPDATE, None for no timer (RFC 4028 9).

    Raises SIPError 422 for an interval that is too small, 400 for a malformed one.
    """
    try:
        found = read_session_expires(request)
    except ValueError as error:
        raise SIPError(400, str(error)) from None
    if found is None:
        return None
    seconds, refresher = found
    options = request.headers_all("Supported") + request.headers_all("Require")
    supported = "timer" in [option.lower() for option in options]
    if seconds < MIN_SE and supported:
        raise SIPError(422, "", [("Min-SE", str(MIN_SE))])
    ours = refresher == "uas" or not supported  # a proxy alone may have asked for the timer
    if ours and seconds < MIN_SE:
        return None
    return Expiry(seconds, ours)


class SessionTimer:
    """The session timer of one call.

    call: a Dialog, which it ends if the session expires. after(seconds, function, *args).
    reinvite(call, headers, on_final): sends a re-INVITE that repeats our last description.
    """

    def __init__(self, call, after, reinvite):
        self._call, self._after, self._reinvite = call, after, reinvite
        self._turn = 0  # number of the current interval; timers of earlier ones do nothing

    def stop(self):
        """End the timer and let go of the call, which a waiting step would keep in memory."""
        self._turn, self._call = self._turn + 1, None

    def start(self, expiry):
        """Begin a new interval; None ends the timer."""
        self._turn += 1
        if expiry:
            # RFC 4028 10: refresh at half the interval; send BYE a little before its end
            end = expiry.seconds - min(32, expiry.seconds / 3)
            refresh = expiry.seconds / 2 if expiry.ours else end
            self._wait(self._turn, expiry, refresh, end)

    def _wait(self, turn, expiry, refresh, end):
        """Wait in steps: one timer of hours would keep an ended call in memory for hours."""
        if turn != self._turn or self._call.over:
            return
        if end <= 0:
            missed = ("our session refresh was not confirmed" if expiry.ours
                      else "no session refresh from the caller")
            self._call.hang_up(f"{missed}, due every {expiry.seconds} s", 102)
            return
        if expiry.ours and refresh == 0:
            self._refresh(turn, expiry.seconds, MIN_SE)
        step = min(STEP, refresh if refresh > 0 else end)
        self._after(step, self._wait, turn, expiry, refresh - step, end - step)

    def _refresh(self, turn, seconds, min_se):
        call = self._call
        if turn != self._turn or call.over:
            return
        headers = [("Contact", call.contact), ("Supported", "timer"),
                   ("Session-Expires", f"{seconds};refresher=uac"), ("Min-SE", str(min_se))]

        def on_final(response):
            if turn == self._turn:
                self._on_response(turn, seconds, min_se, response)

        if call.peer_updates:
            call.send_request("UPDATE", headers, on_final)
        elif call.may_offer:
            self._reinvite(call, headers, on_final)
        else:
            self._after(RETRY_SECONDS, self._refresh, turn, seconds, min_se)

    def _on_response(self, turn, seconds, min_se, response):
        status = response.status if response else 408
        asked = response.header("Min-SE", "") if response else ""
        if status < 300:
            self._on_refreshed(response)
        elif status in (408, 481):
            came = f"answered with {status}" if response else "not answered"
            self._call.hang_up(f"our session refresh was {came}", 102)
        elif status == 422 and DIGITS.fullmatch(asked) and seconds < int(asked) <= LONGEST:
            self._refresh(turn, int(asked), int(asked))
        elif status in (491, 500, 503):
            self._after(RETRY_SECONDS, self._refresh, turn, seconds, min_se)
        elif status in (405, 501) and self._call.peer_updates:
            self._call.peer_updates = False
            self._refresh(turn, seconds, min_se)
        else:  # RFC 4028 10: the peer is there; whether it ends the session is its decision
            log.info("%s: our session refresh was rejected: %d", self._call, status)
            self.start(Expiry(seconds, True))

    def _on_refreshed(self, response):
        try:
            self._call.update_peer(response)
        except ValueError as error:
            log.debug("%s: the Contact of a 2xx is ignored: %s", self._call, error)
        try:
            found = read_session_expires(response)
        except ValueError:
            found = None
        self.start(found and Expiry(max(found[0], MIN_SE), found[1] != "uas"))
