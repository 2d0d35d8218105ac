"""Test a bot without a phone: FakeCall is a call that follows a script.

    from siprtp.testing import FakeCall
    from my_bot import answer

    call = FakeCall(keys="1", utterances=[b"..."])
    call.run(answer)
    assert call.said[0] == HELLO and call.transferred_to == "sip:desk@10.1.1.1"
"""

import logging
import wave
from typing import Dict, Iterable, Iterator, List, Optional, Tuple, Union

import bot
from siprtp.bot_arguments import check_uri
from siprtp.bot_results import CallLog
from siprtp.media.vad import Utterance

FRAMES_PER_SECOND = 50


class FakeCall:
    """A bot.Call without a server, for one thread.

    utterances: PCM of each thing the caller says; the caller hangs up after the last. keys: what
    the caller presses, read in order. transfer_error: the (status, reason) that a transfer gets.
    It keeps what the bot did: said (PCM of each say), sent_digits, ringing, rejected (a status),
    transferred_to (a URI), hung_up.
    """

    def __init__(self, utterances: Iterable[bytes] = (), keys: str = "", caller: str = "4711",
                 called: str = "1000", name: str = "", headers: Optional[Dict[str, str]] = None,
                 transfer_error: Optional[Tuple[int, str]] = None):
        self.caller, self.called, self.name, self.headers = caller, called, name, headers or {}
        self.id, self.source, self.codec = "fake@localhost", ("127.0.0.1", 5060), "PCMA"
        self.rate, self.ended = 8000, False
        self.statistics = bot.Statistics(0, 0, 0, 0.0, None)
        self.log = CallLog(logging.getLogger("bot.call"), {"call": self})
        self.said: List[bytes] = []
        self.sent_digits, self.ringing, self.hung_up = "", False, False
        self.rejected: Optional[int] = None
        self.transferred_to: Optional[str] = None
        self._utterances, self._keys = list(utterances), keys
        self._transfer_error, self._answered = transfer_error, False
        self._recording: Optional[str] = None

    def __str__(self) -> str:
        return f"call from {self.caller!r}, Call-ID {self.id!a}"

    def run(self, function) -> "FakeCall":
        """Serve the call with a bot as the server does: the end of the call is no error."""
        try:
            function(self)
        except bot.CallEnded:
            pass
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
        if rate not in (8000, 16000):
            raise ValueError("rate must be 8000 or 16000")
        self._check(answered=False)
        self.rate, self._answered = rate, True

    def reject(self, status: int = 603) -> None:
        self._check(answered=False)
        self.rejected, self.ended = status, True

    def frames(self) -> Iterator[bytes]:
        self._check()
        size = 2 * self.rate // FRAMES_PER_SECOND
        return (pcm[at:at + size].ljust(size, b"\0")
                for pcm in self._heard() for at in range(0, len(pcm), size))

    def utterances(self, silence: float = 0.64,
                   timeout: Optional[float] = None) -> Iterator[Utterance]:
        self._check()
        return self._cut()

    def _cut(self):
        end = 0.0
        for pcm in self._heard():
            start, end = end, end + len(pcm) / (2 * self.rate)
            yield Utterance(pcm, start, end, self.rate)

    def _heard(self):
        """Yield each thing the caller says; then the caller hangs up."""
        while self._utterances and not self.ended:
            yield self._utterances.pop(0)
        self.ended = True

    def digits(self, count: Optional[int] = None, timeout: Optional[float] = 5.0,
               until: Optional[str] = None) -> bot.Digits:
        self._check()
        until = ("" if count == 1 else "#") if until is None else until
        pressed = ""
        while count is None or len(pressed) < count:
            key, self._keys = self._keys[:1], self._keys[1:]
            if not key:
                return bot.Digits(pressed, timed_out=True)
            if key in until:
                return bot.Digits(pressed, key)
            pressed += key
        if self._keys and self._keys[0] in until:
            key, self._keys = self._keys[0], self._keys[1:]
            return bot.Digits(pressed, key)
        return bot.Digits(pressed)

    def clear_digits(self) -> None:
        self._keys = ""

    def say(self, pcm: bot.Sound, rate: Optional[int] = None,
            barge_in: Union[bool, str] = False) -> bot.Said:
        self._check()
        if isinstance(pcm, (bytes, bytearray, memoryview)):
            pcm = [bytes(pcm)]
        self.said.append(b"".join(map(bytes, pcm)))
        return bot.Said(len(self.said[-1]) / (2 * (rate or self.rate)))

    def clear(self) -> None:
        pass

    def send_digits(self, digits: str) -> None:
        self._check()
        self.sent_digits += digits

    def record(self, path: Optional[str]) -> Optional[str]:
        if path is None:
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
        self.hung_up = self.ended = True

    def transfer(self, uri: str, timeout: float = 60.0) -> None:
        self._check()
        check_uri(uri)
        if self._transfer_error:
            raise bot.TransferError(*self._transfer_error)
        self.transferred_to, self.ended = uri, True
