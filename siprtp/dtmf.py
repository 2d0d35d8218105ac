"""Key presses: telephone-events in RTP (RFC 4733), and in the bodies of INFO and NOTIFY."""

import re
import struct
from collections import deque
from typing import Deque, List, NamedTuple, Optional

KEYS = "0123456789*#ABCD"  # the event code is the index
EVENT = struct.Struct("!BBH")  # event, E bit and volume, duration in timestamp units
END = 0x80
FRAME = 160  # timestamp units: 20 ms at the RTP clock of 8000 Hz
PRESS = 5  # frames of 20 ms that a key we send lasts
ENDS = 3  # packets that end a press (RFC 4733 2.5.1.4)
MOST_ENDS = 6  # sequence numbers from the first end to the last, if audio is in between
RECENT = 32  # packets of key presses to remember: three presses of 200 ms
LATE = 160000  # timestamp units, 20 s: a timestamp further back belongs to a new clock
LATE_PACKETS = 250  # 5 s: a sequence number further back belongs to a new counter
LOST = 40000  # timestamp units, 5 s: the most of a long press that may get lost
SAME = 5.0  # seconds in which two reports of a key may be one press: INFO follows its release
SIGNAL = re.compile(rb"^[ \t]*signal[ \t]*=[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
KEY_ALONE = re.compile(rb"\A\s*(\S{1,2})\s*\Z")
KEY_OR_SIGNAL = re.compile(rb"(?:\A|signal[ \t]*=)\s*([0-9A-D*#]{1,2})(?=\s|\Z)", re.IGNORECASE)
NORTEL_DIGITS = "application/vnd.nortelnetworks.digits"
INFO_TYPES = {  # content type of an INFO: where its body has the key, or the keys
    "application/dtmf-relay": SIGNAL, "application/dtmf": KEY_ALONE,
    "application/telephone-event": KEY_OR_SIGNAL, "audio/telephone-event": KEY_OR_SIGNAL,
    NORTEL_DIGITS: re.compile(rb"^d=(?:digits=)?([0-9A-D*#]{1,20})\r?$",
                              re.IGNORECASE | re.MULTILINE),
}
EVENT_CODES = [str(code) for code in range(10, len(KEYS))]  # some senders' * # A B C D


class Packet(NamedTuple):
    """A telephone-event in RTP."""

    ssrc: int
    sequence: int
    timestamp: int
    marker: bool
    event: int
    end: bool
    duration: int  # timestamp units


class EventReader:
    """Reports each press of a key once, even if its packets repeat, get lost or are out of order.

    By RFC 4733 the packets of a press share a timestamp, and the first has the marker. Some
    gateways give all presses one timestamp, or each packet its own. The reader therefore keeps the
    last packets in the order of their numbers: a press starts where one does not continue another.
    """

    def __init__(self):
        self._recent: Deque[Packet] = deque(maxlen=RECENT)

    def read(self, ssrc: int, sequence: int, marker: bool, timestamp: int, payload: bytes) -> str:
        """Return the key of a press that was unknown before this packet, "" if there is none.

        If the packet also shows that two presses were taken for one, two keys are returned.
        """
        if len(payload) < EVENT.size:
            return ""
        event, flags, duration = EVENT.unpack_from(payload)
        packet = Packet(ssrc, sequence, timestamp, marker, event, bool(flags & END), duration)
        if packet in self._recent:
            return ""
        before, after = self._neighbours(packet)
        if after and not before and len(self._recent) == RECENT:
            return ""  # a late packet of a press that is no longer in _recent
        self._recent.append(packet)
        new = _starts(packet, before) + _starts(after, packet) - _starts(after, before)
        return (key_of(event) if new > 0 else "") + (key_of(after.event) if new > 1 else "")

    def _neighbours(self, packet):
        """Return the packets of the same source that were sent before and after one, or None.

        If the numbers contradict the timestamps, the sender's counter has wrapped or restarted:
        this drops the older packets.
        """
        before, after = [], []
        for other in list(self._recent):
            later = other.sequence - packet.sequence & 0xFFFF
            if other.ssrc != packet.ssrc:
                continue
            if later > LATE_PACKETS:
                before.append((0x10000 - later, other))
            elif later and other.timestamp + FRAME - packet.timestamp & 0xFFFFFFFF < LATE:
                after.append((later, other))
            else:
                self._recent.remove(other)
        return min(before, default=(0, None))[1], min(after, default=(0, None))[1]


def _starts(packet, before):
    """Return whether a packet (or None) starts a press after the one before it (or None)."""
    return packet is not None and (before is None or not _continues(packet, before))


def _continues(packet, before):
    """Return whether two packets, with none known to be between them, belong to one press."""
    gap = packet.sequence - before.sequence & 0xFFFF
    ahead = (packet.timestamp - before.timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
    grown = packet.duration - before.duration
    if packet.event != before.event or (before.end and not packet.end) or ahead < -FRAME:
        return False
    if packet.marker:  # lenient: some senders mark all packets of a press, or the ends too
        rising = grown > 0 and not before.end
        return ahead == 0 and grown >= 0 and before.marker + (gap < ENDS) + rising >= 2
    if before.end:  # lenient: some senders give each end a new timestamp or duration
        next_end = gap < ENDS and grown >= 0 and max(grown, ahead) <= FRAME * gap
        return next_end or (grown == 0 and ahead <= before.duration and gap <= MOST_ENDS)
    # RFC 4733 2.5.1.3: the next segment begins where the last one reached
    if ahead <= 0xFFFF and before.duration > 0xFFFF - LOST:
        return True
    if (ahead == before.duration and gap <= ENDS) or (grown >= 0 and ahead <= before.duration):
        return True
    # lenient: new timestamps within a press. The sequence numbers must leave no room for the ends
    # of one press and the start of another
    most = (packet.duration if packet.end else grown) + FRAME * ENDS
    return FRAME * gap <= grown + FRAME * ENDS and ahead <= most


class NotifyReader:
    """The same for Cisco's telephone-event NOTIFYs, of which a press has one or more."""

    def __init__(self):
        self._open, self._duration = None, 0

    def read(self, body: bytes) -> str:
        """Return the key whose press a body of four bytes begins, or ""."""
        if len(body) < EVENT.size:
            return ""
        event, flags, duration = EVENT.unpack_from(body)
        ends = bool(flags & END)
        goes_on = event == self._open and (ends or duration > self._duration)
        self._open, self._duration = None if ends else event, duration
        return "" if goes_on else key_of(event)


class Keys:
    """Counts a press once if the trunk reports it in several ways, such as RTP and NOTIFY."""

    def __init__(self):
        self._reports = []  # (key, the ways that reported it, when the first did)

    def is_new(self, key: str, way: str, now: float) -> bool:
        """Return whether this is a new press. way: what reported it. now: seconds."""
        self._reports = [report for report in self._reports[-20:] if now - report[2] < SAME]
        for reported, ways, _ in self._reports:
            if reported == key and way not in ways:
                ways.add(way)
                return False
        self._reports.append((key, {way}, now))
        return True


def key_of(event: int) -> str:
    """Return the key of an event code, or "" (16 is the hook flash)."""
    return KEYS[event] if event < len(KEYS) else ""


def info_keys(content_type: str, body: bytes) -> Optional[str]:
    """Return the keys of an INFO body, "" for none; None if its type is not one of INFO_TYPES."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in INFO_TYPES:
        return None
    match = INFO_TYPES[kind].search(body)
    text = match.group(1).decode("ascii", "replace").upper() if match else ""
    if kind == NORTEL_DIGITS:
        return text if set(text) <= set(KEYS) else ""
    if text in EVENT_CODES:
        return KEYS[int(text)]
    return text if len(text) == 1 and text in KEYS else ""


def event_payloads(key: str) -> List[bytes]:
    """Return the payloads of a press of 100 ms, to be sent 20 ms apart with one timestamp.

    The end is sent three times, in case of loss (RFC 4733 2.5.1.4). Raises ValueError if key is
    not a key.
    """
    if len(key) != 1 or key not in KEYS:
        raise ValueError(f"{key!r} is not a key: use 0-9, *, # or A-D")
    event, volume = KEYS.index(key), 10  # -dBm0
    payloads = [EVENT.pack(event, volume, FRAME * step) for step in range(1, PRESS)]
    return payloads + [EVENT.pack(event, END | volume, FRAME * PRESS)] * 3
