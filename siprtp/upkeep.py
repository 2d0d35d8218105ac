"""The upkeep of a call that is up: its RTCP reports, and whether its RTP still comes."""

import random
import time

from siprtp.media import rtcp

REPORTS_TOGETHER = 0.05  # seconds: each wake-up of the SIP thread costs more than a report
WATCH = 10.0  # seconds between two looks at the RTP of a call


class Upkeep:
    """Does the regular work of calls, all in the SIP thread.

    clock: seconds, monotonic. rtp_timeout: seconds without RTP before a call ends, 0 for never.
    """

    def __init__(self, clock, rtp_timeout):
        self._clock, self._rtp_timeout = clock, rtp_timeout

    def start(self, dialog):
        """Begin the upkeep of a call that was answered; it ends with the call."""
        if self._rtp_timeout:
            self._watch(dialog, None, 0)
        self._report_later(dialog)

    def _report_later(self, dialog):
        """Send RTCP about every 5 s, at random so that calls do not coincide (RFC 3550 6.2)."""
        seconds = rtcp.INTERVAL * (0.5 + random.random())
        seconds -= (self._clock() + seconds) % REPORTS_TOGETHER
        dialog.later(seconds, self._report)

    def _report(self, dialog):
        self._report_later(dialog)
        dialog.media.report(time.time())

    def _watch(self, dialog, seen, silent):
        """End a call without RTP for RTP_TIMEOUT seconds; a call on hold is checked with OPTIONS.

        A call whose audio is switched off is not on hold.
        silent: seconds, the sum of the waits: a machine that was suspended has missed no RTP.
        """
        flow, timeout = dialog.media.flow, self._rtp_timeout
        held = bool(flow.formats) and not (flow.sending and flow.receiving)
        now = dialog.media.packets_in, held
        if now != seen or not dialog.acked:  # without an ACK the call ends for that
            seen, silent = now, 0
        if silent >= timeout:
            if not held:
                dialog.hang_up(f"no RTP for {silent:.0f} s", 41)
                return
            silent = 0
            dialog.send_request("OPTIONS", [], lambda answer: on_life_sign(dialog, answer))
        wait = min(WATCH, timeout / 4)
        dialog.later(wait, self._watch, seen, silent + wait)


def on_life_sign(dialog, answer):
    """Hang up a call on hold whose caller no longer answers (RFC 3261 12.2.1.2)."""
    if answer is None or answer.status in (408, 481):
        dialog.hang_up("the caller on hold no longer answers", 41)
