"""Test a bot without a phone: FakeCall is a call that follows a script.

    from siprtp.testing import FakeCall
    from my_bot import HELLO, answer

    call = FakeCall(keys="1").run(answer)
    assert call.said[0] == HELLO and call.transferred_to == "sip:desk@10.1.1.1"
"""

import logging
import wave
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import bot
from siprtp.bots import arguments
from siprtp.bots.results import CallLog
from siprtp.bots.service import is_call_ended
from siprtp.dtmf import KEYS
from siprtp.media.vad import Utterance

FRAMES_PER_SECOND = 50
MAX_SAID = 600  # seconds of one say(); then the caller hangs up, since no test plays for ever


class FakeCall:
    """A bot.Call without a server. No method waits.

    utterances: PCM of each thing the caller says, None for a silence longer than any timeout; the
    caller hangs up after the last. keys: what the caller presses, each when the bot reads it, so
    that it interrupts no prompt. patience: timeouts of digits() in a row after which the caller
    hangs up. transfer_error: the (status, reason) with which a transfer fails.

    It keeps what the bot did: said (PCM of each say), sent_digits, ringing, rejected (a status),
    transferred_to (a URI), hung_up (whether the bot ended the call).
    """

    def __init__(self, utterances: Iterable[Optional[bytes]] = (), keys: str = "",
                 caller: str = "4711", called: str = "1000", name: str = "",
                 headers: Optional[Dict[str, str]] = None,
                 transfer_error: Optional[Tuple[int, str]] = None, patience: int = 10):
        self.caller, self.called, self.name, self.headers = caller, called, name, headers or {}
        self.id, self.source, self.codec = "fake@localhost", ("127.0.0.1", 5060), "PCMA"
        self.rate, self.ended = 8000, False
        self.statistics = bot.Statistics(0, 0, 0, 0.0, None)
        self.log: logging.LoggerAdapter = CallLog(logging.getLogger("bot.call"), {"call": self})
        self.said: List[bytes] = []
        self.sent_digits, self.ringing, self.hung_up = "", False, False
        self.rejected: Optional[int] = None
        self.transferred_to: Optional[str] = None
        self._utterances, self._keys, self._end = list(utterances), keys, 0.0
        self._transfer_error, self._answered = transfer_error, False
        self._patience, self._timeouts = patience, 0
        self._recording: Optional[str] = None

    def __str__(self) -> str:
        return f"call from {self.caller!r}, Call-ID {self.id!a}"

    def run(self, function: Callable) -> "FakeCall":
        """Serve the call with a bot as the server does: only CallEnded is no error."""
        try:
            function(self)
        except BaseException as error:
            if not is_call_ended(error):
                raise
        self.hung_up = self.hung_up or not self.ended
        self.ended = True
        return self

    def _check(self, answered=True):
        if self.ended:
            raise bot.CallEnded("the caller hung up")
        if answered and not self._answered:
            raise RuntimeError("the call is not answered yet")

    # The names and signatures of bot.Call; a test compares them

    def ring(self) -> None:
        self._check(answered=False)
        self.ringing = True

    def answer(self, rate: int = 8000) -> None:
        arguments.check_rate(rate)
        self._check(answered=False)
        if not self._answered:
            self.rate, self._answered = rate, True

    def reject(self, status: int = 603) -> None:
        arguments.check_status(status)
        self._check(answered=False)
        if self._answered:
            raise RuntimeError("the call is answered: use hangup()")
        self.rejected, self.ended = status, True

    def frames(self) -> Iterator[bytes]:
        self._check()
        return self._frames()

    def _frames(self):
        size = 2 * self.rate // FRAMES_PER_SECOND
        for pcm in iter(self._next_utterance, b""):
            for at in range(0, len(pcm or b""), size):
                yield pcm[at:at + size].ljust(size, b"\0")

    def utterances(self, silence: float = 0.64,
                   timeout: Optional[float] = None) -> Iterator[Utterance]:
        self._check()
        arguments.check_utterances(silence, timeout)
        return self._cut(timeout)

    def _cut(self, timeout):
        for pcm in iter(self._next_utterance, b""):
            if pcm:
                start, self._end = self._end, self._end + len(pcm) / (2 * self.rate)
                yield Utterance(pcm, start, self._end, self.rate)
            elif timeout is not None:
                return

    def _next_utterance(self):
        """Return what the caller says next, None for a silence, b"" for the hang-up."""
        if self._utterances and not self.ended:
            return self._utterances.pop(0) or None
        self.ended = True
        return b""

    def digits(self, count: Optional[int] = None, timeout: Optional[float] = 5.0,
               until: Optional[str] = None) -> bot.Digits:
        self._check()
        until = arguments.terminators(count, until)
        entry = bot.Digits.read(count, until, self._next_key)
        if entry.timed_out:
            self.ended = timeout is None or self._timeouts >= self._patience
            self._check()
        full = entry and not (entry.terminator or entry.timed_out)
        if full and self._keys and self._keys[0] in until:
            return bot.Digits(entry, self._next_key())
        return entry

    def _next_key(self):
        key, self._keys = self._keys[:1], self._keys[1:]
        self._timeouts = 0 if key else self._timeouts + 1
        return key

    def clear_digits(self) -> None:
        """Do nothing: the keys of the script are pressed later."""

    def say(self, pcm: bot.Sound, rate: Optional[int] = None,
            barge_in: Union[bool, str] = False) -> bot.Said:
        self._check()
        arguments.check_barge_in(barge_in)
        rate, said = rate or self.rate, bytearray()
        for chunk in arguments.chunks_of(pcm, rate):
            said += chunk
            if len(said) >= MAX_SAID * 2 * rate:
                self.ended = True
                break
        self.said.append(bytes(said[:MAX_SAID * 2 * rate]))
        self._check()
        return bot.Said(len(said) / (2 * rate))

    def clear(self) -> None:
        """Do nothing: every say() is over when it returns."""

    def send_digits(self, digits: str) -> None:
        self._check()
        if not set(digits) <= set(KEYS):
            raise ValueError(f"{digits!r} is not made of keys")
        self.sent_digits += digits

    def record(self, path: Optional[str]) -> Optional[str]:
        if not path:
            recorded, self._recording = self._recording, None
            return recorded
        self._check()
        with wave.open(path, "wb") as file:  # an empty recording
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(self.rate)
        self._recording = path
        return None

    def hangup(self) -> None:
        self.hung_up = self.hung_up or not self.ended
        self.ended = True

    def transfer(self, uri: str, timeout: float = 60.0) -> None:
        self._check()
        arguments.check_uri(uri)
        if self._transfer_error:
            raise bot.TransferError(*self._transfer_error)
        self.transferred_to, self.ended = uri, True
