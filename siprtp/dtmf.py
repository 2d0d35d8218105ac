"""Key presses: telephone-events in RTP (RFC 4733), and in the bodies of INFO and NOTIFY."""

import re
import struct

KEYS = "0123456789*#ABCD"  # the event code is the index
EVENT = struct.Struct("!BBH")  # event, E bit and volume, duration in timestamp units
END = 0x80
FRAME = 160  # timestamp units: 20 ms at the RTP clock of 8000 Hz
PRESS = 5  # frames that a key we send is held
LATE = 40000  # timestamp units, 5 s: a timestamp further back is a new clock
SAME = 5.0  # seconds; INFO comes when the key is released
SIGNAL = re.compile(rb"^[ \t]*signal[ \t]*=[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)


class EventReader:
    """Tells each press of a key once, however many packets say so and some are lost.

    What tells presses apart is the timestamp and the E bit; the marker may be lost with its packet.
    """

    def __init__(self):
        self._ssrc = self._timestamp = self._event = None
        self._ended, self._duration = True, 0

    def read(self, ssrc, timestamp, payload):
        """Return the key a packet begins, "" where it goes on with one or is no key."""
        if len(payload) < EVENT.size:
            return ""
        event, flags, duration = EVENT.unpack_from(payload)
        ahead = timestamp - (self._timestamp or 0) & 0xFFFFFFFF
        known = ssrc == self._ssrc
        if known and ahead > 0x100000000 - LATE:
            return ""  # of a press before
        goes_on = known and (ahead == 0 or (
            event == self._event and not self._ended and self._duration <= ahead <= 0xFFFF
            and (ahead == self._duration or self._duration > 0xFFFF - LATE)))
        self._ended = bool(flags & END) or (self._ended and known and ahead == 0)
        self._ssrc, self._timestamp, self._event, self._duration = ssrc, timestamp, event, duration
        return "" if goes_on else key_of(event)


class NotifyReader:
    """The same for the telephone-event NOTIFYs of Cisco: one, two or, while it lasts, more."""

    def __init__(self):
        self._open, self._duration = None, 0

    def read(self, body):
        """Return the key a body of four bytes begins, or ""."""
        if len(body) < EVENT.size:
            return ""
        event, flags, duration = EVENT.unpack_from(body)
        ends = bool(flags & END)
        goes_on = event == self._open and (ends or duration > self._duration)
        self._open, self._duration = None if ends else event, duration
        return "" if goes_on else key_of(event)


class Keys:
    """Takes a key once where a trunk tells it in several ways, as by RTP and NOTIFY."""

    def __init__(self):
        self._told = []  # (key, the ways that told it, when the first did)

    def is_new(self, key, way, now):
        """Say whether this is another press; way: what told it; now: seconds."""
        self._told = [told for told in self._told[-20:] if now - told[2] < SAME]
        for told, ways, _ in self._told:
            if told == key and way not in ways:
                ways.add(way)
                return False
        self._told.append((key, {way}, now))
        return True


def key_of(event):
    """Return the key of an event code, "" for a code that is none (16 is the hook flash)."""
    return KEYS[event] if event < len(KEYS) else ""


def info_key(content_type, body):
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


def event_payloads(key):
    """Return the payloads of a press of 100 ms, to be sent 20 ms apart with one timestamp.

    The end thrice, as it may not be lost (RFC 4733 2.5.1.4). Raises ValueError for what is no key.
    """
    if len(key) != 1 or key not in KEYS:
        raise ValueError(f"{key!r} is no key")
    event, volume = KEYS.index(key), 10  # -dBm0
    payloads = [EVENT.pack(event, volume, FRAME * step) for step in range(1, PRESS)]
    return payloads + [EVENT.pack(event, END | volume, FRAME * PRESS)] * 3
