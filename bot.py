"""A bot: a plain function that serves one call in a thread of its own, with methods that block.

    def answer(call):
        call.answer()
        for utterance in call.utterances():
            call.say(reply_to(utterance.pcm), barge_in=True)

`BOT=my_bot:answer python server.py` runs it, and so does `server.main(answer)`. All audio is PCM:
16-bit signed little-endian mono, at 8000 Hz unless the bot asks for 16000 Hz. See docs/bot.md.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Generator
from typing import Iterable, Iterator, Mapping, Optional, Tuple, Union

from siprtp.bots import arguments
from siprtp.bots.results import CallLog, Digits, Said, Statistics
from siprtp.media.conversation import Conversation
from siprtp.media.recorder import Recorder
from siprtp.media.resample import Resampler, resample
from siprtp.media.vad import Listener, Utterance, UtteranceCutter
from siprtp.media.wav import wav

__all__ = ["Call", "CallEnded", "Digits", "Resampler", "Said", "Statistics", "TransferError",
           "Utterance", "echo", "resample", "wav"]

log = logging.getLogger(__name__)

Sound = Union[bytes, bytearray, memoryview, Iterable[bytes]]  # PCM, or chunks of PCM

DISK_SECONDS = 5.0  # at most, until the file of a recording that has ended is complete
TERMINATOR_SECONDS = 2.0  # after digits(count), in which a "#" still belongs to the entry


class CallEnded(BaseException):
    """The call is over; the text says why.

    It is not an Exception, so an `except Exception` in a bot's loop does not keep the bot running.
    """


class TransferError(Exception):
    """The transfer failed and the call goes on. status: a SIP status code; reason: its text."""

    def __init__(self, status: int, reason: str):
        super().__init__(f"{status} {reason}".strip())
        self.status, self.reason = status, reason


class Call:
    """A call as its bot sees it. You may call every method from any thread.

    caller, called: numbers or users. name: the caller's display name, or "". headers: the INVITE's,
    by name in any case. actions: a BotActions. settings: a Config. source: the (ip, port) that the
    INVITE came from.
    """

    def __init__(self, caller: str, called: str, name: str, headers: Mapping[str, str],
                 session, actions, settings, source: Optional[Tuple[str, int]] = None,
                 clock=time.monotonic):
        self.caller, self.called, self.name, self.headers = caller, called, name, headers
        self.rate = 8000  # Hz of all PCM here
        self.source = source
        self._actions, self._settings, self._clock = actions, settings, clock
        self._audio = Conversation(session, settings.silence == "on")
        self._lock, self._changed = self._audio.lock, self._audio.changed
        self._answered, self._why = False, ""
        self._cutter = UtteranceCutter(self.rate)
        self._recording: Optional[Recorder] = None

    def __repr__(self) -> str:
        return f"<call from {self.caller!r} to {self.called!r}>"

    def __str__(self) -> str:
        return f"call from {self.caller!r}, Call-ID {self.headers.get('Call-ID', '')[:100]!a}"

    @property
    def log(self) -> logging.LoggerAdapter:
        """A logger that puts the call at the start of each line."""
        # made on demand: an attribute would be a reference cycle, which keeps ended calls in memory
        return CallLog(logging.getLogger("bot.call"), {"call": self})

    @property
    def id(self) -> str:
        """The Call-ID of the INVITE."""
        return self.headers.get("Call-ID", "")

    @property
    def codec(self) -> str:
        """The codec of the audio we send, such as "PCMA"; "" until one is agreed."""
        name = self._audio.session.flow.codec
        return "" if name == "none" else name

    @property
    def statistics(self) -> Statistics:
        """The Statistics up to now; after the end, of the whole call."""
        session = self._audio.session
        received, round_trip = session.received, session.round_trip
        return Statistics(received.packets, session.packets_out, received.lost,
                          received.jitter_ms, None if round_trip is None else round_trip * 1000)

    @property
    def ended(self) -> bool:
        """True once the call is over."""
        return self._audio.ended

    # Before the answer

    def ring(self) -> None:
        """Send 180 Ringing. Does not wait."""
        self._check(answered=False)
        self._actions.ring()

    def answer(self, rate: int = 8000) -> None:
        """Send 200 OK; return when the caller's ACK has arrived.

        rate: Hz of all PCM from now on, 8000 or 16000, whatever the codec. Raises CallEnded if the
        caller cancels.
        """
        arguments.check_rate(rate)
        if not self._answered:
            self._check(answered=False)
            self.rate, self._cutter = rate, UtteranceCutter(rate)
            self._audio.begin(rate)
            self._actions.accept()
            self._wait(lambda: self._answered, check=False)
            if self._answered and self._settings.record_dir:  # a forged INVITE leaves no file
                self._record_all()
            self._check(answered=False)

    def reject(self, status: int = 603) -> None:
        """Reject the call, which ends it. status: 400 to 699.

        Raises ValueError for any other status, and for those that need headers, such as 401.
        """
        arguments.check_status(status)
        if self._answered:
            raise RuntimeError("the call is answered: use hangup()")
        self._check(answered=False)
        self._actions.reject(status)
        self._wait(lambda: self.ended, check=False)

    # Audio from the caller

    def frames(self) -> Iterator[bytes]:
        """Return an iterator of 20 ms of PCM each, in order, from now until the call ends.

        The jitter buffer waits for late frames and conceals lost ones. While the bot does not ask
        for frames, up to 30 s are kept.
        """
        self._check()
        self._audio.discard()
        return (pcm for _, pcm, _ in iter(self._audio.next_frame, None))

    def utterances(self, silence: float = 0.64,
                   timeout: Optional[float] = None) -> Iterator[Utterance]:
        """Return an iterator of Utterances, one for each thing the caller says.

        The first may have been said before this call, for example during `say`. silence: seconds
        of silence that end an utterance. timeout: seconds without a voice that end the iterator.
        """
        self._check()
        arguments.check_utterances(silence, timeout)
        self._cutter.silence = round(silence * 50)
        return self._utterances(None if timeout is None else timeout * 50)

    def _utterances(self, limit):
        listener = Listener(self._cutter, limit, self._audio.ticks)
        while not listener.over:
            self._audio.listen(listener)
            utterance = listener.next()
            if utterance is None:
                return
            yield utterance
            listener.restart(self._audio.ticks)

    def digits(self, count: Optional[int] = None, timeout: Optional[float] = 5.0,
               until: Optional[str] = None) -> Digits:
        """Return the keys pressed, as Digits: `count` keys, or those before a key of `until`.

        until: by default "#", but "" for count=1, where every key counts. After the last of
        `count` keys, a key of `until` still belongs to the entry: one that waits is its
        terminator, one that comes within TERMINATOR_SECONDS is dropped; digits() waits for
        neither. timeout: seconds to wait for each key, None for ever; then the result is shorter.
        """
        self._check()
        until = arguments.terminators(count, until)
        if not until:
            self._audio.drop_next_key("", 0)  # every key counts, also the # of the entry before
        entry = Digits.read(count, until, lambda: self._next_key(timeout))
        if entry.terminator or entry.timed_out or not entry:
            return entry
        return Digits(entry, self._take_terminator(until))

    def _next_key(self, timeout):
        self._wait(lambda: self._audio.keys, timeout)
        return self._audio.next_key()

    def _take_terminator(self, until):
        """Return the key of `until` that waits, or ""; then drop one that follows soon."""
        terminator = self._audio.next_key(until)
        if until and not terminator and not self._audio.keys:
            self._audio.drop_next_key(until, TERMINATOR_SECONDS)
        return terminator

    def clear_digits(self) -> None:
        """Drop the keys that were pressed and not read yet."""
        self._audio.clear_keys()

    # Audio and keys to the caller

    def say(self, pcm: Sound, rate: Optional[int] = None,
            barge_in: Union[bool, str] = False) -> Said:
        """Play PCM; when it is over, return the seconds sent to the caller, as Said.

        pcm: bytes, or an iterable of chunks of any size, each played as soon as it comes; a
        generator is always closed. rate: Hz of pcm if it differs from the call's. barge_in: what
        stops the speech: "voice", "keys" (also those that wait to be read), or True for both.
        """
        self._check()
        arguments.check_barge_in(barge_in)
        rate = self.rate if rate is None else rate
        chunks = arguments.chunks_of(pcm, rate)
        if rate != self.rate:
            chunks = arguments.resampled(chunks, Resampler(rate, self.rate))
        try:
            said = Said(*self._audio.play(chunks, barge_in))
        finally:
            if isinstance(pcm, Generator):
                pcm.close()
        self._check()
        return said

    def clear(self) -> None:
        """Stop `say` and drop the rest of its audio. Does not wait."""
        self._audio.clear()

    def send_digits(self, digits: str) -> None:
        """Send keys (0-9 * # A-D) as telephone-events; return when they are sent, 160 ms each.

        Raises ValueError for any other character, or if telephone-event is not agreed.
        """
        self._check()
        self._audio.send_digits(digits)
        self._check()

    def record(self, path: Optional[str]) -> Optional[str]:
        """Record the call from now on to a stereo WAV file: the caller left, the bot right.

        None ends the recording, waits until its file is complete and returns the file's path, also
        after the end of the call; without a recording it returns None. Raises OSError if the file
        cannot be created; later failures are logged.
        """
        if path:
            self._check()
            self._recording = Recorder(path, self.rate)
            self._audio.record("bot's", self._recording)
            return None
        self._audio.record("bot's", None)
        recording, self._recording = self._recording, None
        if recording:
            recording.thread.join(DISK_SECONDS)
        return recording.path if recording else None

    def _record_all(self):
        caller = re.sub(r"[^\w+]", "_", self.caller, flags=re.ASCII)[:40]
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{caller}-{self._audio.session.port}.wav"
        try:
            path = os.path.join(self._settings.record_dir, name)
            self._audio.record("all", Recorder(path, self.rate))
        except OSError as error:
            log.warning("%s is not recorded: %s", self, error)

    # Ending

    def hangup(self) -> None:
        """End the call: send BYE, or 480 before the answer.

        Waits until 200 ms after the last audio, which the caller's jitter buffer still plays.
        """
        self._finish("its bot hung up")

    def transfer(self, uri: str, timeout: float = 60.0) -> None:
        """Ask the other side to call a SIP URI in our place (REFER, RFC 3515); then hang up.

        timeout: seconds to wait for the result. Raises TransferError if the other side rejects the
        transfer, cannot reach the URI or reports nothing in time: the call goes on.
        """
        self._check()
        arguments.check_uri(uri)
        reports = [(0, "")]  # (status, reason)

        def tell(status, reason):
            with self._lock:
                reports.append((status, reason))
                self._changed.notify_all()

        self._actions.transfer(uri, tell)
        self._wait(lambda: reports[-1][0] >= 200, timeout, check=False)
        status, reason = reports[-1]
        if self.ended and not status:
            raise CallEnded(self._why)  # before the other side accepted
        if status < 200 and not self.ended:
            status, reason = 408, "no news of the transfer"
            log.info("%s: transfer to %r: no news for %g s", self, uri, timeout)
        if status >= 300:
            raise TransferError(status, reason)
        self._finish("transferred")

    def _on_answered(self):
        with self._lock:
            self._answered = True
            self._changed.notify_all()

    def _finish(self, why):
        self._audio.play_out()
        self._actions.hang_up(480, why)
        self._wait(lambda: self.ended, check=False)

    def _check(self, answered=True):
        if self.ended:
            raise CallEnded(self._why)
        if answered and not self._answered:
            raise RuntimeError("the call is not answered yet")

    def _wait(self, condition, timeout=None, check=True):
        """Wait until condition() or the end of the call, or for timeout seconds."""
        until = None if timeout is None else self._clock() + timeout
        with self._lock:
            while not (self.ended or condition()):
                left = None if until is None else until - self._clock()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left and min(left, threading.TIMEOUT_MAX))
            if check and self.ended:
                raise CallEnded(self._why)


def echo(call: Call) -> None:
    """Play each caller's own voice back."""
    call.answer()
    call.say(call.frames())
