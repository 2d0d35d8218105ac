"""Session timers (RFC 4028): a call whose other side stops refreshing it is cleared.

The caller refreshes where it can; we do, by UPDATE, where it asks us to.
Imports: sip_message, sip_utils.
"""

from typing import NamedTuple

from sip_message import SIPError
from sip_utils import DIGITS, parse_params

MIN_SE = 90  # seconds, the least RFC 4028 allows


class Expiry(NamedTuple):
    """What a 2xx settles: the session lasts so many seconds from now; who refreshes it."""

    seconds: int
    ours: bool  # we refresh

    def headers(self):
        """Return the headers of a 2xx of ours."""
        if self.ours:
            return [("Session-Expires", f"{self.seconds};refresher=uas")]
        return [("Session-Expires", f"{self.seconds};refresher=uac"), ("Require", "timer")]


def read_session_expires(message):
    """Return (seconds, refresher or "") of a Session-Expires, or None. Raises ValueError."""
    value = message.header("Session-Expires")
    if value is None:
        return None
    seconds, *params = value.split(";")
    if not DIGITS.fullmatch(seconds.strip()):
        raise ValueError("Malformed Session-Expires")
    return int(seconds), parse_params(params).get("refresher", "").lower()


def answer_expiry(request):
    """Return the Expiry of our 2xx to an INVITE or UPDATE, None for no timer (RFC 4028 9).

    Raises SIPError 422 for an interval too small, 400 for a malformed one.
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
    ours = refresher == "uas" or not supported  # a proxy may ask for it alone
    if ours and ("UPDATE" not in request.headers_all("Allow") or seconds < MIN_SE):
        return None
    return Expiry(seconds, ours)


class SessionTimer:
    """The timer of one call.

    call: a Call. after(seconds, function, *args). hang_up(call, why, cause): ends one that expired.
    """

    def __init__(self, call, after, hang_up):
        self._call, self._after, self._hang_up = call, after, hang_up
        self._expiry = None  # the Expiry that runs; a timer of another one finds nothing to do

    def start(self, expiry):
        """Begin an interval anew; None ends the timer."""
        # never the caller's object: two equal intervals are told apart by identity
        self._expiry = expiry = expiry and Expiry(*expiry)
        if expiry is None:
            return
        if expiry.ours:
            self._after(expiry.seconds / 2, self._refresh, expiry, expiry.seconds)
        # RFC 4028 10: BYE somewhat before the end
        self._after(expiry.seconds - min(32, expiry.seconds / 3), self._expire, expiry)

    def _refresh(self, expiry, seconds):
        if self._expiry is expiry and not self._call.over:
            self._call.send_request("UPDATE", [
                ("Contact", self._call.contact), ("Supported", "timer"),
                ("Session-Expires", f"{seconds};refresher=uac"), ("Min-SE", str(MIN_SE)),
            ], lambda response: self._on_response(expiry, response))

    def _on_response(self, expiry, response):
        if self._expiry is not expiry:
            return
        status = response.status if response else 408
        if status < 300:
            self.start(self._settled(response))
        elif status in (408, 481):
            self._hang_up(self._call, f"session refresh answered with {status}", 102)
        elif status == 422 and DIGITS.fullmatch(response.header("Min-SE", "")):
            self._refresh(expiry, max(expiry.seconds, int(response.header("Min-SE"))))

    def _settled(self, response):
        try:
            found = read_session_expires(response)
        except ValueError:
            return None
        return found and Expiry(max(found[0], MIN_SE), found[1] != "uas")

    def _expire(self, expiry):
        if self._expiry is expiry:
            self._hang_up(self._call, f"no session refresh for {expiry.seconds} s", 102)
