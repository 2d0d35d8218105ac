"""The actions of a bot: any thread asks for them, the SIP thread does them.

By then the call may have ended or changed, so each action checks the dialog's state first.
"""

import logging
import weakref

from siprtp.sip.answers import send_ringing

log = logging.getLogger(__name__)

NORMAL, TEMPORARY_FAILURE = 16, 41  # causes of ITU-T Q.850


class BotActions:
    """The actions of one call's bot.

    post(function, dialog, *args): calls it in the SIP thread. answer(dialog, body, tick): answers
    the call with media served by tick().
    """

    def __init__(self, dialog, post, answer):
        # the dialog has the bot's call, which has these actions: a cycle would outlive the call
        self._dialog, self._post, self._answer = weakref.ref(dialog), post, answer

    def _ask(self, function, *args):
        dialog = self._dialog()
        if dialog is not None:
            self._post(function, dialog, *args)

    def ring(self):
        """Send 180."""
        self._ask(ring)

    def accept(self):
        """Send 200."""
        self._ask(accept, self._answer)

    def reject(self, status):
        """Answer the INVITE with a status >= 400."""
        self._ask(reject, status)

    def hang_up(self, status, why):
        """Send BYE; before the answer, status. why: for the log."""
        self._ask(hang_up, status, why)

    def transfer(self, uri, tell):
        """Send REFER; tell(status, reason) gets each report, in the SIP thread."""
        self._ask(transfer, uri, tell)


# The SIP thread


def ring(dialog):
    if dialog.state == "proceeding" and not dialog.ringing:
        dialog.ringing = True
        send_ringing(dialog)


def accept(dialog, answer):
    if dialog.state != "proceeding":
        return
    try:
        answer(dialog, dialog.answer_sdp, dialog.bot.tick)
    except (RuntimeError, OSError) as error:
        log.warning("%s rejected with 486: no RTP thread: %s", dialog, error)
        dialog.reject(486, "no thread")


def reject(dialog, status):
    if dialog.state == "proceeding":
        dialog.reject(status, "its bot rejected it")


def hang_up(dialog, status, why):
    dialog.hang_up(why, TEMPORARY_FAILURE if status == 500 else NORMAL, status)


def transfer(dialog, uri, tell):
    if dialog.over:
        return

    def on_news(status, reason):
        if status >= 200:
            log.info("%s: transfer to %r: %d %.99r", dialog, uri, status, reason)
        tell(status, reason)

    dialog.refer(uri, on_news)
