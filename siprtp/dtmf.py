"""Key presses: telephone-events in RTP (RFC 4733), and in the bodies of INFO and NOTIFY."""

import re
import struct
from typing import List

KEYS = "0123456789*#ABCD"  # the event code is the index
EVENT = struct.Struct("!BBH")  # event, E bit and volume, duration in timestamp units
END = 0x80
FRAME = 160  # timestamp units: 20 ms at the RTP clock of 8000 Hz
PRESS = 5  # frames of 20 ms that a key we send lasts
LATE = 40000  # timestamp units, 5 s: a timestamp further back belongs to a new clock
SAME = 5.0  # seconds in which two reports of a key may be one press: INFO follows its release
SIGNAL = re.compile(rb"^[ \t]*signal[ \t]*=[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)


class EventReader:
    """Reports each press of a key once, however many packets carry it and some are lost.

    The timestamp and the E bit tell presses apart; the marker may be lost with its packet.
    """

    def __init__(self):
        self._ssrc = self._timestamp = self._event = None
        self._ended, self._duration = True, 0

    def read(self, ssrc: int, timestamp: int, payload: bytes) -> str:
        """Return the key whose press a packet begins; "" if it continues one or is no key."""
        if len(payload) < EVENT.size:
            return ""
        event, flags, duration = EVENT.unpack_from(payload)
        ahead = timestamp - (self._timestamp or 0) & 0xFFFFFFFF
        known = ssrc == self._ssrc
        if known and ahead > 0x100000000 - LATE:
            return ""  # a late packet of an earlier press
        goes_on = known and (ahead == 0 or (
            event == self._event and not self._ended and self._duration <= ahead <= 0xFFFF
            and (ahead == self._duration or self._duration > 0xFFFF - LATE)))
        self._ended = bool(flags & END) or (self._ended and known and ahead == 0)
        self._ssrc, self._timestamp, self._event, self._duration = ssrc, timestamp, event, duration
        return "" if goes_on else key_of(event)


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


def info_key(content_type: str, body: bytes) -> str:
    """Return the key of an INFO body, application/dtmf-relay or application/dtmf, or ""."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/dtmf-relay":
        match = SIGNAL.search(body)
        signal = match.group(1) if match else b""
    else:
        signal = body.strip() if kind == "application/dtmf" else b""
    text = signal.decode("ascii", "replace").upper()
    if text in ("10", "11"):
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
