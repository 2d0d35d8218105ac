"""Where a session's packets go, and where they may come from."""

from typing import Any, Optional

from siprtp.agreement import Agreement

# Timestamp units, 100 ms: until then after its last packet, no other stream can replace a stream.
STREAM_HOLD_UNITS = 800


class Flow:
    """Where a session sends and what it accepts; replaced as a whole when an agreement changes."""

    def __init__(self, agreement: Agreement):
        self.agreement = agreement
        (self.remote, self.formats, self.sending, self.receiving, self.codec, self.rtcp,
         self.events, self.others) = agreement
        self.audio = next(iter(self.formats), None)  # the payload type of the codec
        # the stream that the session receives: its last good (ip, port), its SSRC; RTP thread only
        self.source: Any = None
        self.ssrc: Optional[int] = None
        self.target: Any = self.remote  # where to send
        self.ignored = 0  # packets that were not accepted
        self.failed = False  # whether a packet could not be sent

    def accept(self, source, ssrc: int, continues: bool, peer_ip: str) -> bool:
        """Decide whether a new stream becomes the call's; follow a caller behind NAT.

        A stream may come from any port of the IP in the SDP (music on hold uses another one) or of
        the IP that signals: where the two differ, a sender at the latter is behind a NAT.
        continues: the present stream goes on. Then only the address and port in the SDP can take
        over; otherwise anyone who knows or shares the call's IP could break in.
        """
        described = self.remote is not None and source[0] == self.remote[0]
        if not described and source[0] != peer_ip:
            return False
        if continues and self.source and (source != self.remote or self.source == self.remote):
            return False
        self.source, self.ssrc = source, ssrc
        self.target = self.remote if described or self.remote is None else source
        return True
