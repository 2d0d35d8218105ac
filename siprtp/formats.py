"""The RTP payload formats this server negotiates, one row each; siprtp.media.codec codes them."""

from typing import NamedTuple


class Format(NamedTuple):
    """One payload format, as a=rtpmap names it."""

    name: str  # compared without regard to case
    rate: int  # Hz of the RTP clock
    payload_type: int  # what our offers call it


FORMATS = (  # in order of preference; RFC 3551 6
    Format("PCMA", 8000, 8),
    Format("PCMU", 8000, 0),
    Format("G722", 8000, 9),  # RFC 3551 4.5.2: the clock of G.722 is 8000 Hz by an old mistake
)
DEFAULT = FORMATS[:2]  # a bot's call in G.722 costs 200 times as much, so it is opt-in
BY_NAME = {row.name: row for row in FORMATS}
EVENT = Format("telephone-event", 8000, 101)  # RFC 4733; dynamic, 101 is the usual type
