"""Voice on the line: told from noise, and cut into utterances.

A level is the mean of 16 * log2(1 + abs(x) / 8) over the 16-bit samples x of a frame: 0..192,
where 16 more is twice the amplitude (6 dB). bench/vad.py measures how well all this works.

No I/O and no clock.
"""

import io
import wave
from collections import deque
from typing import NamedTuple

FRAME_MS = 20
SILENT = 16  # level of A-law's least code; no noise is so low, so it tells nothing of the noise
START, LOUDEST = 60, 80  # level of the noise at first: after silence; of a frame at most
FAINT = 52  # up to it nothing is voice: about -53 dBFS
MARGIN, SPREADS = 9, 3.6  # loud is so much above the floor, or so many times the noise's spread
SPREAD, WIDEST = 6, 5  # mean deviation of the noise: of one unknown; of any other at most
BLOCK = 10  # frames from which to learn
RATE = 0.3  # share of a block in what is known
NEW, STEADY, MEMORY = 3, 5, 15  # blocks: 0.6 s, 1 s, 3 s
RANGE = 12  # what changes less in STEADY blocks is no speech
SMOOTHING, VOICE = 0.6, 0.75  # share of a frame in the smoothed level; of the margin, for voice
HANGOVER = 3  # frames


class VoiceDetector:
    """Tells voice from the line's noise by level alone, and learns how loud the noise is.

    All that comes and goes is voice: music and rings too. What stays the same, as a dial tone
    does, is noise after 1 s; whatever never falls back is noise after 3 s.
    """

    def __init__(self):
        self._floor, self._spread = None, SPREAD  # level of the noise, its mean deviation
        self._block = []
        self._lows, self._highs = deque(maxlen=MEMORY), deque(maxlen=STEADY)
        self._smooth, self._hangover = 0, 0  # level, frames
        self._set(START)

    def hear(self, level):
        """Take the next frame in playing order; return whether it belongs to voice."""
        if level > SILENT:
            if self._floor is None:  # the first frame is noise, or a word that begins
                self._floor = self._smooth = min(level, LOUDEST)
                self._set(self._floor)
            self._block.append(level)
            if len(self._block) == BLOCK:
                self._learn()
        elif self._floor is None:
            self._floor = START  # a clean line, or one that sends nothing yet
        self._smooth += (level - self._smooth) * SMOOTHING
        if self._smooth > self._voice:
            self._hangover = HANGOVER
            return True
        self._hangover -= 1
        return self._hangover >= 0

    def is_loud(self, level):
        """Return whether a frame is louder than the noise; two in a row are voice."""
        return level > self.threshold

    def _learn(self):
        block, self._block = self._block, []
        ordered = sorted(block)
        low, high = ordered[1], ordered[-2]  # but for a click and a gap
        mean = sum(block) / BLOCK
        self._lows.append(low)
        self._highs.append(high)
        floor = self._floor
        if high < self.threshold:  # noise alone
            deviation = sum([abs(level - floor) for level in block]) / BLOCK
            self._spread += (min(deviation, WIDEST) - self._spread) * RATE
            floor += (mean - floor) * RATE
        elif low < floor:  # voice, and the noise between is lower than was thought
            floor += (low - floor) * (1 if len(self._lows) <= NEW else RATE)
        elif len(self._highs) == STEADY and (
                max(self._highs) - min(list(self._lows)[-STEADY:]) < RANGE):
            floor = mean
        elif len(self._lows) == MEMORY and min(self._lows) > floor:
            floor, self._spread = min(self._lows), SPREAD  # people pause for breath
        self._floor = floor
        self._set(floor)

    def _set(self, floor):
        margin = max(MARGIN, SPREADS * self._spread)
        self.threshold = max(FAINT, floor + margin)  # a frame above is loud
        self._voice = max(FAINT, floor + VOICE * margin)


class Utterance(NamedTuple):
    """What the caller said in one go, as 16-bit mono PCM; start and end: seconds of the call."""

    pcm: bytes
    start: float
    end: float
    rate: int  # Hz

    def __repr__(self):
        return f"<utterance, {self.start:.2f} to {self.end:.2f} s>"

    def wav(self):
        """Return it as the bytes of a WAV file."""
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(self.rate)
            out.writeframes(self.pcm)
        return file.getvalue()


class UtteranceCutter:
    """Cuts utterances out of a call's frames, given in playing order and without gaps.

    All in ms: silence ends an utterance; less voice than shortest, with hear()'s 60 ms of hangover,
    is a click; before and after are kept around the voice; one of longest is cut and goes on.
    """

    def __init__(self, rate=8000, silence=640, shortest=160, before=240, after=200, longest=30000):
        self.rate = rate
        self.silence, self._shortest = silence // FRAME_MS, shortest // FRAME_MS
        self._after, self._longest = after // FRAME_MS, longest // FRAME_MS
        self._idle = deque(maxlen=before // FRAME_MS)  # frames before an utterance
        self._frames = []  # of the utterance that goes on
        self._voiced = self._quiet = 0  # frames of it: voice, and silence since the last voice
        self.taken = 0  # frames since the answer; to be set where some were not fed

    def feed(self, frame, voiced):
        """Take 20 ms of PCM and whether it is voice; return the Utterance it ends, or None."""
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

    def finish(self):
        """End what goes on, as the call does; return the Utterance or None."""
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
