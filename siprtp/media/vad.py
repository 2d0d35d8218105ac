"""Voice on the line: tell it from noise, and cut it into utterances.

A level is the mean of 16 * log2(1 + abs(x) / 8) over the 16-bit samples x of a frame: 0 to 192,
where 16 more mean twice the amplitude (6 dB). bench/vad.py measures how well this works.

No I/O and no clock.
"""

import io
import wave
from collections import deque
from typing import Deque, List, NamedTuple, Optional

FRAME_MS = 20
SILENT = 16  # level of A-law's lowest code: digital silence, from which no noise can be learned
# The first estimate of the noise: after silence; from a first frame of audio, at most.
START, LOUDEST = 60, 80
FAINT = 52  # about -53 dBFS: no frame up to this level is voice
# A loud frame is this far above the noise, or this many times its spread, whichever is more.
MARGIN, SPREADS = 9, 3.6
SPREAD, WIDEST = 6, 5  # mean deviation of the noise: before it is known; at most
BLOCK = 10  # frames from which the detector learns at a time
RATE = 0.3  # weight of a new block in the estimate of the noise
NEW, STEADY, MEMORY = 3, 5, 15  # blocks: 0.6 s, 1 s, 3 s
RANGE = 12  # audio whose level varies by less during STEADY blocks is not speech
SMOOTHING = 0.6  # weight of a frame in the smoothed level
VOICE = 0.75  # of the margin: if the smoothed level is further above the noise, it is voice
HANGOVER = 3  # frames, 60 ms: voice lasts this much longer than it is loud


class VoiceDetector:
    """Tells voice from the line's noise by its level alone, and learns the level of the noise.

    All audio that comes and goes counts as voice, music and ring tones too. Audio that stays the
    same, like a dial tone, counts as noise after 1 s; audio that never pauses, after 3 s.
    """

    def __init__(self):
        self._floor: Optional[float] = None  # level of the noise
        self._spread: float = SPREAD  # its mean deviation
        self._block: List[float] = []
        self._lows: Deque[float] = deque(maxlen=MEMORY)
        self._highs: Deque[float] = deque(maxlen=STEADY)
        self._smooth: float = 0  # level
        self._hangover = 0  # frames
        self._set(START)

    def feed(self, level: float) -> bool:
        """Take the level of the next frame in playing order; return whether it is voice."""
        if level > SILENT:
            if self._floor is None:  # the first frame: noise, or the start of a word
                self._floor = self._smooth = min(level, LOUDEST)
                self._set(self._floor)
            self._block.append(level)
            if len(self._block) == BLOCK:
                self._learn()
        elif self._floor is None:
            self._floor = START  # a clean line, or no audio yet
        self._smooth += (level - self._smooth) * SMOOTHING
        if self._smooth > self._voice:
            self._hangover = HANGOVER
            return True
        self._hangover -= 1
        return self._hangover >= 0

    def is_loud(self, level: float) -> bool:
        """Return whether a frame is louder than the noise; two such frames in a row are voice."""
        return level > self.threshold

    def _learn(self):
        block, self._block = self._block, []
        ordered = sorted(block)
        low, high = ordered[1], ordered[-2]  # without a click and a gap
        mean = sum(block) / BLOCK
        self._lows.append(low)
        self._highs.append(high)
        floor = self._floor
        if high < self.threshold:  # only noise
            deviation = sum([abs(level - floor) for level in block]) / BLOCK
            self._spread += (min(deviation, WIDEST) - self._spread) * RATE
            floor += (mean - floor) * RATE
        elif low < floor:  # voice, and quieter noise between the words than estimated
            floor += (low - floor) * (1 if len(self._lows) <= NEW else RATE)
        elif len(self._highs) == STEADY and (
                max(self._highs) - min(list(self._lows)[-STEADY:]) < RANGE):
            floor = mean
        elif len(self._lows) == MEMORY and min(self._lows) > floor:
            floor, self._spread = min(self._lows), SPREAD  # speech would have paused for breath
        self._floor = floor
        self._set(floor)

    def _set(self, floor):
        margin = max(MARGIN, SPREADS * self._spread)
        self.threshold = max(FAINT, floor + margin)  # a frame above it is loud
        self._voice = max(FAINT, floor + VOICE * margin)


class Utterance(NamedTuple):
    """What the caller said between two pauses, as 16-bit mono PCM.

    start, end: seconds since the answer.
    """

    pcm: bytes
    start: float
    end: float
    rate: int  # Hz

    def __repr__(self):
        return f"<utterance, {self.start:.2f} to {self.end:.2f} s>"

    def wav(self) -> bytes:
        """Return the bytes of a WAV file."""
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(self.rate)
            out.writeframes(self.pcm)
        return file.getvalue()


class UtteranceCutter:
    """Cuts utterances out of a call's frames, which arrive in playing order and without gaps.

    In ms: silence ends an utterance. Less voice than shortest, with the 60 ms of HANGOVER, is a
    click. An utterance keeps before and after around its voice. One longer than longest is cut.
    """

    def __init__(self, rate: int = 8000, silence: int = 640, shortest: int = 160,
                 before: int = 240, after: int = 200, longest: int = 30000):
        self.rate = rate
        self.silence, self._shortest = silence // FRAME_MS, shortest // FRAME_MS
        self._after, self._longest = after // FRAME_MS, longest // FRAME_MS
        self._idle: Deque[bytes] = deque(maxlen=before // FRAME_MS)  # frames before an utterance
        self._frames: List[bytes] = []  # of the present utterance
        self._voiced = self._quiet = 0  # its frames of voice, and of silence since the last voice
        self.taken = 0  # frames since the answer; set it if you skip some

    def feed(self, frame: bytes, voiced: bool) -> Optional[Utterance]:
        """Take 20 ms of PCM; return the Utterance that it ends, or None. voiced: it is voice."""
        self.taken += 1
        if not voiced and not self._frames:
            self._idle.append(frame)
            return None
        if not self._frames:
            self._frames.extend(self._idle)
            self._idle.clear()
        self._frames.append(frame)
        self._voiced += voiced
        self._quiet = 0 if voiced else self._quiet + 1
        if self._quiet >= self.silence or len(self._frames) >= self._longest:
            return self.finish()
        return None

    def finish(self) -> Optional[Utterance]:
        """End the present utterance, as when the call ends; return the Utterance or None."""
        extra = max(0, self._quiet - self._after)
        end = self.taken - extra
        keep = len(self._frames) - extra
        frames, rest = self._frames[:keep], self._frames[keep:]
        enough = self._voiced >= self._shortest
        self._idle.extend(rest if enough else self._frames)
        self._frames, self._voiced, self._quiet = [], 0, 0
        if not enough:
            return None
        second = 1000 / FRAME_MS
        return Utterance(b"".join(frames), (end - keep) / second, end / second, self.rate)


class Listener:
    """Takes frames one by one until an utterance is complete.

    cutter: an UtteranceCutter. limit: ticks of 20 ms without a voice that end the wait, None for
    never. tick: the number of the last frame before the wait.
    """

    def __init__(self, cutter: UtteranceCutter, limit: Optional[float], tick: int):
        self._cutter, self._limit = cutter, limit
        self._voice = tick  # of the last voiced frame, or when the wait for one began
        self._found: Deque[Utterance] = deque()
        self.over = False  # the limit is reached

    def take(self, number: int, pcm: bytes, voiced: bool) -> bool:
        """Take the frame of a tick; return whether the wait is over."""
        if number - 1 != self._cutter.taken:  # the bot asked too late: frames were dropped
            self.finish()
            self._cutter.taken = number - 1
        utterance = self._cutter.feed(pcm, voiced)
        if voiced:
            self._voice = max(self._voice, number)
        if utterance:
            self._found.append(utterance)
        elif self._limit is not None and number - self._voice >= self._limit:
            self.over = True
        return self.ready

    @property
    def ready(self) -> bool:
        """True if the wait is over: an utterance was found, or the limit is reached."""
        return self.over or bool(self._found)

    def finish(self) -> None:
        """End the present utterance, as when the call ends."""
        utterance = self._cutter.finish()
        if utterance:
            self._found.append(utterance)

    def next(self) -> Optional[Utterance]:
        """Return an utterance that was found, or None."""
        return self._found.popleft() if self._found else None

    def restart(self, tick: int) -> None:
        """Wait for a voice from this tick on: the bot has been busy until then."""
        self._voice = max(self._voice, tick)
