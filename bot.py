"""A bot: a plain function of one call, run in a thread of its own, with calls that block.

    def answer(call):
        call.answer()
        for utterance in call.utterances():
            call.say(reply_to(utterance.pcm), barge_in=True)

`BOT=my_bot:answer python server.py` runs it, or `server.main(answer)`. PCM is 16-bit signed
little-endian mono, 8000 Hz unless the bot asks for more.
"""

import importlib
import inspect
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Generator
from typing import Iterable, Iterator, NamedTuple, Optional, Union

from siprtp.config import ConfigError
from siprtp.media.conversation import Conversation
from siprtp.media.recorder import Recorder
from siprtp.media.resample import Resampler, resample
from siprtp.media.vad import Utterance, UtteranceCutter
from siprtp.media.wav import wav

__all__ = ["Call", "CallEnded", "Digits", "Resampler", "Said", "Statistics", "TransferError",
           "echo", "resample", "wav"]

log = logging.getLogger(__name__)

Sound = Union[bytes, bytearray, memoryview, Iterable[bytes]]  # PCM, or chunks of it

URI = re.compile(r"(sips?|tel):[^\s<>\"\x00-\x1f\x7f]+")
DISK_SECONDS = 5.0  # how long a recording that is ended is waited for
SLICE = 0.2  # seconds of PCM taken at a time
TERMINATOR_SECONDS = 2.0  # how long after digits(count) a "#" still belongs to its entry


class CallEnded(BaseException):
    """The call is over; the text says why.

    No Exception, so that an `except Exception` in a bot's loop does not keep the bot alive.
    """


class TransferError(Exception):
    """The other side did not transfer the call, which goes on. status: of SIP; reason: its text."""

    def __init__(self, status: int, reason: str):
        super().__init__(f"{status} {reason}".strip())
        self.status, self.reason = status, reason


class Statistics(NamedTuple):
    """What the RTP of a call has counted so far."""

    packets_in: int
    packets_out: int
    lost: int  # packets from the caller
    jitter: float  # ms, of the packets from the caller
    round_trip: Optional[float]  # ms, from the caller's RTCP; None if it sends none


class Digits(str):
    """The keys that digits() read: a str that also knows what ended the entry.

    terminator: the key of until that ended it, or "". timed_out: True if no key came in time.
    """

    terminator: str
    timed_out: bool

    def __new__(cls, keys: str, terminator: str = "", timed_out: bool = False):
        digits = super().__new__(cls, keys)
        digits.terminator, digits.timed_out = terminator, timed_out
        return digits


class Said(float):
    """The seconds that say() sent: a float that also knows what cut the speech short.

    interrupted_by: "voice", "keys", or "clear" for clear(); "" if all was played.
    """

    interrupted_by: str

    def __new__(cls, seconds: float, interrupted_by: str = ""):
        said = super().__new__(cls, seconds)
        said.interrupted_by = interrupted_by
        return said


class CallLog(logging.LoggerAdapter):
    """Logs with the call in front of each line."""

    def log(self, level, msg, *args, **kwargs):
        if self.isEnabledFor(level):
            text = f"%s: {msg}" if args else "%s: %s"
            self.logger.log(level, text, self.extra["call"], *(args or (msg,)), **kwargs)


class Call:
    """A call as its bot sees it. Every method may be called from any thread; most by one.

    caller, called: numbers or users. name: the caller's, as displayed, "" for none. headers: the
    INVITE's, by name in any case. actions: what the server does for it (ring, accept, reject,
    hang_up, transfer). settings: a Config. source: (ip, port) that the INVITE came from.
    """

    def __init__(self, caller, called, name, headers, session, actions, settings,
                 source=None, clock=time.monotonic):
        self.caller, self.called, self.name, self.headers = caller, called, name, headers
        self.rate = 8000  # Hz of all PCM here
        self.source = source
        self._actions, self._settings, self._clock = actions, settings, clock
        self._audio = Conversation(session, settings.silence == "on")
        self._lock, self._changed = self._audio.lock, self._audio.changed
        self._answered, self._why = False, ""
        self._cutter, self._recording = None, None
        self.log = CallLog(logging.getLogger("bot.call"), {"call": self})

    def __repr__(self):
        return f"<call from {self.caller!r} to {self.called!r}>"

    def __str__(self):
        return f"call from {self.caller!r}, Call-ID {self.headers.get('Call-ID', '')[:100]!a}"

    @property
    def id(self) -> str:
        """The Call-ID of the INVITE."""
        return self.headers.get("Call-ID", "")

    @property
    def codec(self) -> str:
        """The codec of the audio we send, as "PCMA"; "" until one is agreed."""
        name = self._audio.session.flow.codec
        return "" if name == "none" else name

    @property
    def statistics(self) -> Statistics:
        """The Statistics up to now; after the end, of the whole call."""
        session = self._audio.session
        received, round_trip = session.received, session.round_trip
        return Statistics(received.packets, session.packets_out, received.lost,
                          received.jitter / 8, None if round_trip is None else round_trip * 1000)

    @property
    def ended(self) -> bool:
        """True once the call is over."""
        return self._audio.ended

    # Before the answer

    def ring(self) -> None:
        """Tell the caller that it rings (180). Does not wait."""
        self._check(answered=False)
        self._actions.ring()

    def answer(self, rate: int = 8000) -> None:
        """Answer (200), and return when the caller has confirmed; PCM is of this rate from now on.

        rate: 8000 or 16000 Hz, whatever the codec. Raises CallEnded if the caller gave up.
        """
        if rate not in (8000, 16000):
            raise ValueError("rate must be 8000 or 16000")
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
        """Refuse the call with a status of 400 to 699; the call is over then.

        Raises ValueError also for those that need headers to mean something, as 401.
        """
        if not 400 <= status <= 699 or status in (401, 405, 407, 415, 420, 421, 422, 423):
            raise ValueError(f"{status} is no status to refuse a call with")
        if self._answered:
            raise RuntimeError("the call is answered: hangup() ends it")
        self._check(answered=False)
        self._actions.reject(status)
        self._wait(lambda: self.ended, check=False)

    # Hearing

    def frames(self) -> Iterator[bytes]:
        """Return an iterator of 20 ms of PCM each, in order, from now on until the call ends.

        Late frames are waited for, lost ones concealed. What comes while the bot does something
        else is kept, 30 s at most.
        """
        self._check()
        self._audio.discard()
        return (pcm for _, pcm, _ in iter(self._audio.hear, None))

    def utterances(self, silence: float = 0.64,
                   timeout: Optional[float] = None) -> Iterator[Utterance]:
        """Return an iterator of an Utterance for each thing the caller says until the call ends.

        Also of what was said since the last one, during `say` for instance. silence: seconds of it
        that end an utterance. timeout: seconds without a voice that end the iterator.
        """
        self._check()
        if silence < 0.1 or (timeout is not None and timeout < 0):
            raise ValueError("silence must be 0.1 s or more, timeout 0 or more")
        self._cutter.silence = round(silence * 50)
        return self._utterances(None if timeout is None else timeout * 50)

    def _utterances(self, limit):
        voice = self._audio.ticks  # when there was one, or we began to wait for one
        for number, pcm, voiced in iter(self._audio.hear, None):
            if number - 1 != self._cutter.taken:  # some were not asked for in time
                cut = self._cutter.finish()
                self._cutter.taken = number - 1
                if cut:
                    yield cut
            utterance = self._cutter.feed(pcm, voiced)
            voice = max(voice, number) if voiced else voice
            if utterance:
                yield utterance
                voice = max(voice, self._audio.ticks)
            elif limit is not None and number - voice >= limit:
                return
        rest = self._cutter.finish()  # what is said when the caller hangs up counts
        if rest:
            yield rest

    def digits(self, count: Optional[int] = None, timeout: Optional[float] = 5.0,
               until: Optional[str] = None) -> Digits:
        """Return the keys pressed, as Digits: count of them, or those before a key of until.

        until: default "#", and "" for count=1, where each key counts. After the last of count, a
        key of until belongs to the entry too: one that waits is its terminator, and one that
        comes within TERMINATOR_SECONDS is dropped. Neither delays the result. timeout: seconds to
        wait for each key, None for ever; the result may be shorter. Keys that wait come first.
        """
        self._check()
        until = ("" if count == 1 else "#") if until is None else until
        pressed = ""
        while count is None or len(pressed) < count:
            self._wait(lambda: self._audio.keys, timeout)
            key = self._audio.next_key()
            if not key:
                return Digits(pressed, timed_out=True)
            if key in until:
                return Digits(pressed, key)
            pressed += key
        return Digits(pressed, self._take_terminator(until))

    def _take_terminator(self, until):
        """Return the key of until that waits, or "": then one that follows soon is dropped."""
        terminator = self._audio.next_key(until)
        if until and not terminator and not self._audio.keys:
            self._audio.drop_next_key(until, TERMINATOR_SECONDS)
        return terminator

    def clear_digits(self) -> None:
        """Drop the keys that were pressed and not read yet."""
        self._audio.clear_keys()

    # Speaking

    def say(self, pcm: Sound, rate: Optional[int] = None,
            barge_in: Union[bool, str] = False) -> Said:
        """Play PCM; return the seconds sent to the caller, as Said, when all is played.

        pcm: bytes, or an iterable of chunks of any size, each played as soon as it is there; a
        generator is closed in the end. rate: its Hz, where that is not the call's. barge_in: the
        caller's "voice" cuts it short, "keys" do, also those that wait to be read, or True: both.
        """
        self._check()
        if barge_in not in (False, True, "voice", "keys"):
            raise ValueError('barge_in must be False, True, "voice" or "keys"')
        rate, chunks = self.rate if rate is None else rate, pcm
        if isinstance(pcm, (bytes, bytearray, memoryview)):
            step = 2 * max(1, int(rate * SLICE))
            chunks = (bytes(pcm[at:at + step]) for at in range(0, len(pcm), step))
        elif isinstance(pcm, str) or not isinstance(pcm, Iterable):
            raise TypeError(f"say() takes bytes of PCM or an iterable of them, not "
                            f"{type(pcm).__name__}")
        chunks = without_header(chunks)
        if rate != self.rate:
            chunks = resampled(chunks, Resampler(rate, self.rate))
        try:
            said = Said(*self._audio.play(chunks, barge_in))
        finally:
            if isinstance(pcm, Generator):
                pcm.close()
        self._check()
        return said

    def clear(self) -> None:
        """Stop what `say` plays, and drop the rest; from any thread. Does not wait."""
        self._audio.clear()

    def send_digits(self, digits: str) -> None:
        """Send keys (0-9 * # A-D) as telephone-events; return when they are sent, 160 ms each.

        Raises ValueError for what is no key, or where the other side takes none.
        """
        self._check()
        self._audio.send_digits(digits)
        self._check()

    def record(self, path: Optional[str]) -> Optional[str]:
        """Write the call from now on to a stereo WAV file: the caller left, the bot right.

        path: None ends the recording, waits until its file is complete and returns the file's
        path, also after the end of the call; it returns None if nothing was recorded. Raises
        OSError if the file cannot be created; later failures are logged.
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
        who = re.sub(r"[^\w+]", "_", self.caller, flags=re.ASCII)[:40]
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{who}-{self._audio.session.port}.wav"
        try:
            path = os.path.join(self._settings.record_dir, name)
            self._audio.record("all", Recorder(path, self.rate))
        except OSError as error:
            log.warning("%s is not recorded: %s", self, error)

    # Ending

    def hangup(self) -> None:
        """End the call: BYE, or 480 where it was not answered."""
        self._finish("its bot hung up")

    def transfer(self, uri: str, timeout: float = 60.0) -> None:
        """Hand the caller over to a SIP URI (REFER, RFC 3515); the call is over then.

        Raises TransferError where the other side refuses, can't reach it or says nothing for
        timeout seconds: the call goes on.
        """
        self._check()
        if not URI.fullmatch(uri):
            raise ValueError(f"{uri!r} is no SIP URI")
        news = [(0, "")]

        def tell(status, reason):
            with self._lock:
                news.append((status, reason))
                self._changed.notify_all()

        self._actions.transfer(uri, tell)
        self._wait(lambda: news[-1][0] >= 200, timeout, check=False)
        status, reason = news[-1]
        if self.ended and not status:
            raise CallEnded(self._why)  # before it was accepted
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


class Service:
    """The server's side of a bot's call: runs the bot and tells the call what happens."""

    def __init__(self, call):
        self.call = call

    def run(self, function):
        """Call function(call), then hang up or reject what it left open. The bot's thread."""
        call, status, why = self.call, 480, "its bot returned"
        try:
            function(call)
        except BaseException as error:  # SystemExit and asyncio's CancelledError as well
            if is_call_ended(error):
                log.debug("%s: it ended while its bot served it", call)
            else:
                log.exception("%s: its bot failed", call)
                status, why = 500, "its bot failed"
        call._audio.discard()
        call._actions.hang_up(status, why)

    def tick(self):
        """Serve 20 ms of audio; return whether to go on. The RTP thread."""
        try:
            return self.call._audio.tick()
        except Exception:
            log.exception("%s: its audio failed", self.call)
            self.call._audio.failed = True
            self.call._actions.hang_up(500, "its audio failed")
            return True

    def on_answered(self):
        """Let answer() return: the caller has sent its ACK."""
        self.call._on_answered()

    def on_key(self, key):
        """Queue a key that the caller pressed."""
        self.call._audio.press(key)

    def on_end(self, why=""):
        """End every call of a method that waits: the call is over."""
        self.call._why = why
        self.call._audio.end()


def is_call_ended(error):
    """Return whether an exception is CallEnded, or a group (PEP 654) of nothing else."""
    inner = getattr(error, "exceptions", None)
    if isinstance(error, CallEnded) or not isinstance(inner, (list, tuple)):
        return isinstance(error, CallEnded)
    return bool(inner) and all(map(is_call_ended, inner))


def quiet_helper_threads():
    """Log a CallEnded that ends a thread a bot started as one line (Python 3.8 and later)."""
    before = getattr(threading, "excepthook", None)

    def hook(args):
        if is_call_ended(args.exc_value):
            log.debug("thread %s ended with its call: %s", args.thread and args.thread.name,
                      args.exc_value)
        else:
            before(args)

    if before:
        threading.excepthook = hook


def echo(call: Call) -> None:
    """Serve a call with its own voice, as the echo without a bot does."""
    call.answer()
    call.say(call.frames())


def without_header(chunks):
    """Yield chunks; raise ValueError if they begin as a WAV file does."""
    for number, chunk in enumerate(chunks):
        if not number and isinstance(chunk, (bytes, bytearray, memoryview)) and (
                bytes(chunk[:4]) == b"RIFF"):
            raise ValueError("this is a WAV file, not PCM: wav() reads it")
        yield chunk


def resampled(chunks, resampler):
    """Yield chunks at another rate."""
    for chunk in chunks:
        yield resampler.feed(chunk)
    yield resampler.flush()


def load(name):
    """Return the function of "module:function", from the working directory. Raises ConfigError."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
        if not hasattr(found, function):  # a bot.py of theirs was meant, maybe, and is not ours
            raise AttributeError(f"{getattr(found, '__file__', None) or module} has no {function}")
        return check(getattr(found, function))
    except Exception as error:  # whatever the module does when it is imported
        not_theirs = ("<frozen", os.path.dirname(os.__file__), __file__, wav.__code__.co_filename)
        places = [f" ({place.filename}, line {place.lineno})"
                  for place in traceback.extract_tb(error.__traceback__)
                  if not place.filename.startswith(not_theirs)]
        raise ConfigError(f"BOT={name!a}: {type(error).__name__}: {error}"
                          + "".join(places[-1:])) from error


def check(function):
    """Return a bot's function if it can be called with a call. Raises TypeError."""
    if not callable(function):
        raise TypeError(f"{function!r} is no function")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError("it is no plain function: it has async or yield")
    try:
        inspect.signature(function).bind("call")
    except TypeError:
        raise TypeError("it must take one argument, the call") from None
    return function
