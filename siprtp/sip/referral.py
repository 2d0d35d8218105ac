"""A transfer that we asked for: REFER, and the NOTIFYs that report on it (RFC 3515)."""

from sip_message import SIPError, SIPMessage
from sip_utils import parse_params


class Referral:
    """A REFER of ours. tell(status, reason) gets each report up to the final one."""

    def __init__(self, cseq, tell):
        self.cseq, self._tell, self._status = cseq, tell, 0

    def on_news(self, status, reason):
        """Pass on the report of a response or NOTIFY; they may overtake each other."""
        if self._status < 200:
            self._status = status
            self._tell(status, reason)


def on_refer_notify(context, dialog, notify):
    """Take a NOTIFY about our REFER: its body is the start of a response (RFC 3515 2.4.5)."""
    referral, event = dialog.referral, parse_params(notify.header("Event").split(";")[1:])
    if not referral or event.get("id", "") not in ("", str(referral.cseq)):
        raise SIPError(481, "")
    context.respond(notify, 200)
    news = SIPMessage(notify.body)
    state, *params = notify.header("Subscription-State", "").lower().split(";")
    if state.strip() != "terminated":
        referral.on_news(news.status or 100, news.reason)
        return
    dialog.referral = None
    if news.status >= 200:
        referral.on_news(news.status, news.reason)
    else:  # no final status: the transfer goes on, or the peer does not know (RFC 6665 4.1.3)
        why = parse_params(params).get("reason", "noresource")
        verdict = {"noresource": 200 if news.status else 408, "rejected": 603}
        referral.on_news(verdict.get(why, 408), f"no more news: {why}")
