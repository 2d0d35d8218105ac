"""The codecs this server speaks, one row each.  Imports: standard library only."""

from typing import NamedTuple


class Codec(NamedTuple):
    """name: as in a=rtpmap, compared in any case. payload_type: what we offer it as."""

    name: str
    rate: int  # Hz, of the RTP clock
    payload_type: int


CODECS = (Codec("PCMA", 8000, 8), Codec("PCMU", 8000, 0))  # as we prefer them; RFC 3551 6
EVENT = Codec("telephone-event", 8000, 101)  # RFC 4733; its type is dynamic, 101 is usual
