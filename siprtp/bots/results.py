"""The values that a call gives its bot: Statistics, Digits, Said and a log that names the call."""

import logging
from typing import Callable, NamedTuple, Optional


class Statistics(NamedTuple):
    """Counts of a call's RTP packets up to now; jitter and round_trip are in milliseconds."""

    packets_in: int
    packets_out: int
    lost: int  # packets from the caller
    jitter: float  # of the packets from the caller
    round_trip: Optional[float]  # by RTCP; None if the caller sends none


class Digits(str):
    """The keys that digits() read: a str that also tells what ended the entry.

    terminator: the key of `until` that ended it, or "". timed_out: True if no key came in time.
    """

    terminator: str
    timed_out: bool

    def __new__(cls, keys: str, terminator: str = "", timed_out: bool = False) -> "Digits":
        digits = super().__new__(cls, keys)
        digits.terminator, digits.timed_out = terminator, timed_out
        return digits

    @classmethod
    def read(cls, count: Optional[int], until: str, next_key: Callable[[], str]) -> "Digits":
        """Return `count` keys, or those before a key of until; None: of any number.

        next_key() returns the next key, or "" if none comes in time.
        """
        pressed = ""
        while count is None or len(pressed) < count:
            key = next_key()
            if not key:
                return cls(pressed, timed_out=True)
            if key in until:
                return cls(pressed, key)
            pressed += key
        return cls(pressed)


class Said(float):
    """The seconds that say() sent: a float that also tells what cut the speech short.

    interrupted_by: "voice", "keys", or "clear" for clear(); "" if everything was played.
    """

    interrupted_by: str

    def __new__(cls, seconds: float, interrupted_by: str = "") -> "Said":
        said = super().__new__(cls, seconds)
        said.interrupted_by = interrupted_by
        return said


class CallLog(logging.LoggerAdapter):
    """Log with the call at the start of each line."""

    def log(self, level, msg, *args, **kwargs):
        if self.isEnabledFor(level):
            text = f"%s: {msg}" if args else "%s: %s"
            self.logger.log(level, text, self.extra["call"], *(args or (msg,)), **kwargs)
