"""What offer and answer settled: the value that signalling hands to media."""

from typing import Dict, NamedTuple, Optional, Tuple


class Agreement(NamedTuple):
    """What offer and answer settled, for the RTP side."""

    remote: Optional[Tuple[str, int]]  # (ip, port) to send to; None: nowhere
    formats: Dict[int, int]  # payload type we receive: payload type we send
    sending: bool
    receiving: bool
    codec: str
    rtcp: Optional[Tuple[str, int]] = None  # (ip, port) for reports
    events: Optional[int] = None  # which of the types received is telephone-event
    others: Dict[int, str] = {}  # the types of other codecs received: their names


NOTHING = Agreement(None, {}, False, False, "none")
