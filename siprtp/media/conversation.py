"""The audio of a bot's call: 20 ms heard and 20 ms said at every tick.

Conversation belongs to two threads: the RTP thread calls `tick`, the bot's thread all the rest;
what they share is guarded by `lock`.
"""

import collections
import contextlib
import threading

from siprtp.dtmf import FRAME, KEYS, event_payloads
from siprtp.media import codec
from siprtp.media.jitter import Concealer, JitterBuffer
from siprtp.media.resample import Resampler
from siprtp.media.vad import VoiceDetector

BUFFERED = 0.2  # seconds of an iterator's audio that wait to be sent
KEPT = 1500  # frames heard and not asked for: 30 s
MAX_KEYS = 500  # keys not read yet that are kept
BARGE_IN = 320  # bytes of loud payload in a row that interrupt us: 40 ms


class Speech:
    """What one `play` says: what may cut it short, whether all of it is there, how far it is."""

    def __init__(self, barge_in):
        self.by_voice, self.by_keys = barge_in in (True, "voice"), barge_in in (True, "keys")
        self.whole = self.stopped = False
        self.stopped_by = ""  # "voice", "keys" or "clear"
        self.sent = 0  # bytes


class Conversation:
    """Both directions of a call that a bot serves.

    session: an RTPSession. silence: whether packets are sent while there is nothing to say.
    """

    def __init__(self, session, silence=True):
        self.session = session
        self.rate, self.size = 8000, 320  # Hz of the PCM here; bytes of 20 ms of it
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # something other than the next frame
        self.ended = self.failed = False
        self._recorders = {}  # of the whole call, and of what the bot wants
        self.keys = collections.deque(maxlen=MAX_KEYS)  # pressed and not read yet
        self._fresh = False  # some of them have interrupted nothing yet
        self._dropped = "", 0  # the keys of which the next is dropped, up to this tick
        self._more = threading.Condition(self.lock)  # the next frame was heard
        self._heard = collections.deque(maxlen=KEPT)
        self.ticks = 0
        self._out, self._speech = bytearray(), Speech(False)
        self._events = collections.deque()  # (payload or None, timestamp units, marker)
        self._speaker = None  # the thread whose turn it is to say something
        self._send_silence, self._paused = silence, True
        self._buffer = bytearray(2048)
        self._detector, self._loud = VoiceDetector(), 0  # bytes in a row
        self._says = self._hears = None  # names of codecs

    # RTP thread

    def tick(self):
        """Take what came and send what is due; return False once the call has ended."""
        if self.session.stop_event.is_set():
            self.session.sock.close()
            return False
        if self.failed:
            return True  # to close the socket at the end
        flow = self.session.flow
        if flow.codec == "none":
            return True  # nothing is agreed: our offer waits for its answer
        if flow.codec != self._says:
            self._says = flow.codec
            self._speak(codec.CODECS[flow.codec])
            self._understand(flow.codec)
        for name, ssrc, timestamp, payload in self.session.waiting(self._buffer):
            if name != self._hears:
                self._understand(name)
            self._jitter.put(ssrc, timestamp, payload)
            if self._loudness and payload:
                self._listen(self._loudness(payload), len(payload))
        pcm, voiced = self._hear()
        with self.lock:
            self.ticks += 1
            # a plain tuple: 1500 objects a call would make garbage collection take long
            self._heard.append((self.ticks, pcm, voiced))
            self._more.notify()
            if flow.events is None and self._events:  # they are not taken any more
                self.session.skip(FRAME * 8)  # what follows has a timestamp of its own
                self._events.clear()
                self.changed.notify_all()
            event = self._events.popleft() if self._events else None
            frame = None if event and event[0] else self._next(flow.sending)
            recorders = list(self._recorders.values())
        if event and event[0]:
            self.session.send(*event, event=True)
        else:
            self._say(frame)
        if frame or event:
            with self.lock:
                self._tell_the_bot()
        for recorder in recorders:
            recorder.write(pcm, frame or bytes(self.size))
        return True

    def _speak(self, row):
        """Encode with a codec from now on."""
        self._encode, self._to, size = row.encoder(), None, row.sample_rate // 50 * 2
        self._tail = False  # is part of what was said still in the resampler?
        if row.sample_rate != self.rate:
            self._to = Rerated(Resampler(self.rate, row.sample_rate), size)
        # a codec without memory says silence always alike
        self._silence = self._encode(bytes(size)) if row.loudness else None

    def _understand(self, name):
        """Decode another codec from now on."""
        row = codec.CODECS[name]
        self._hears, self._decode, self._loudness = name, row.decoder(), row.loudness
        self._jitter, self._concealer, self._from = JitterBuffer(), Concealer(row.sample_rate), None
        if row.sample_rate != self.rate:
            self._from = Rerated(Resampler(row.sample_rate, self.rate), self.size)

    def _hear(self):
        """Return (20 ms of PCM, whether it is voice)."""
        payload, level = self._jitter.pop(), 0
        pcm = self._concealer.feed(self._decode(payload) if payload else None)
        if not payload:
            self._loud = 0  # nobody speaks who sends nothing
        elif self._loudness:
            level = self._loudness(payload)
        else:
            level = codec.loudness(pcm)
            self._listen(level, len(payload))
        voiced = self._detector.hear(level)
        return self._from.feed(pcm) if self._from else pcm, voiced

    def _listen(self, level, size):
        """Take the level of a packet as it comes: a voice need not wait to be played."""
        self._loud = self._loud + size if self._detector.is_loud(level) else 0
        if self._loud >= BARGE_IN:
            with self.lock:
                if self._speech.by_voice:
                    self.clear("voice")

    def _next(self, sending):
        """Return the next 20 ms of what is to be said, None for nothing."""
        out, speech = self._out, self._speech
        if len(out) < self.size and not (out and speech.whole):
            return None
        frame = bytes(out[:self.size])
        del out[:self.size]
        if sending:
            speech.sent += len(frame)
        return frame.ljust(self.size, b"\0")

    def _tell_the_bot(self):
        """Wake it when its turn is over, or when there is room for more of what it says."""
        room = self.rate * 2 * BUFFERED - len(self._out)
        if not self._events and (not self._out if self._speech.whole else room > 0):
            self.changed.notify_all()

    def _say(self, frame):
        if frame is None and not self._send_silence:
            self._paused = True
            self.session.skip(FRAME)
            return
        if frame is None and self._silence and not self._tail:
            payload = self._silence
        else:
            self._tail = frame is not None and self._to is not None  # what a resampler holds
            frame = frame or bytes(self.size)
            payload = self._encode(self._to.feed(frame) if self._to else frame)
        self.session.send(payload, FRAME, marker=self._paused)
        self._paused = not self.session.flow.sending

    # the SIP thread, or any

    def press(self, key):
        """Queue a key the caller pressed, and stop the speech that keys interrupt."""
        with self.lock:
            (dropped, until), self._dropped = self._dropped, ("", 0)
            if key in dropped and self.ticks <= until:
                return
            self.keys.append(key)
            self._fresh = not self._speech.by_keys
            if self._speech.by_keys:
                self.clear("keys")
            self.changed.notify_all()

    def clear(self, by="clear"):
        """Stop the speech and drop the audio that waits. by: "voice", "keys" or "clear"."""
        with self.lock:
            if not self._speech.stopped:
                self._speech.stopped, self._speech.stopped_by = True, by
            self._out.clear()
            self.changed.notify_all()

    def end(self):
        """Wake whoever waits: the call is over."""
        with self.lock:
            self.ended = True
            self._out.clear()
            self.changed.notify_all()
            self._more.notify_all()
            for recorder in self._recorders.values():
                recorder.close()
            self._recorders.clear()

    # the bot's thread

    def begin(self, rate):
        """Get ready to tick. rate: Hz of all PCM here, whatever the codec."""
        self.rate, self.size = rate, rate // 50 * 2

    def record(self, name, recorder):
        """Let a Recorder, or None, take the place of the one of that name; return that."""
        with self.lock:
            before = self._recorders.pop(name, None)
            if recorder and self.ended:
                recorder.close()
            elif recorder:
                self._recorders[name] = recorder
        if before:
            before.close()
        return before

    @contextlib.contextmanager
    def turn(self):
        """Wait for the turn to say something. Raises RuntimeError for one who has it already."""
        me = threading.current_thread()
        with self.lock:
            if self._speaker is me:
                raise RuntimeError("what is given to say() can't say something itself")
            while self._speaker and not self.ended:
                self.changed.wait()
            self._speaker = me
        try:
            yield
        finally:
            with self.lock:
                self._speaker = None
                self.changed.notify_all()

    def play(self, chunks, barge_in):
        """Say chunks of PCM; return (seconds sent, what cut it short or "") when it is over."""
        with self.turn():
            with self.lock:
                self._speech = speech = Speech(barge_in)
                if speech.by_keys and self._fresh:
                    self.clear("keys")
                elif speech.by_voice and self._loud >= BARGE_IN:
                    self.clear("voice")
                self._fresh = self._fresh and not speech.by_keys
            try:
                for chunk in () if speech.stopped else chunks:
                    if not self._queue(speech, chunk):
                        break
                with self.lock:
                    speech.whole = True
                    while self._out and self._going(speech):
                        self.changed.wait()
                    interrupted_by = speech.stopped_by
            finally:
                with self.lock:
                    self.clear()  # of what is left when chunks raises
                    self._speech = Speech(False)
        return speech.sent / (2 * self.rate), interrupted_by

    def _queue(self, speech, chunk):
        """Give a chunk to the RTP thread as soon as there is room; return whether to go on."""
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(f"16-bit PCM is given as bytes, not {type(chunk).__name__}; "
                            "what has a method tobytes() can be made so")
        with self.lock:
            while self._going(speech) and len(self._out) >= self.rate * 2 * BUFFERED:
                self.changed.wait()
            if self._going(speech):
                self._out += chunk
            return self._going(speech)

    def _going(self, speech):
        return not (speech.stopped or self.ended)

    def send_digits(self, digits):
        """Send keys, 100 ms each and 60 ms apart; return when they are sent. Raises ValueError."""
        events = []
        for payloads in [event_payloads(key) for key in digits]:
            last = len(payloads) - 1
            events += [(payload, FRAME * len(payloads) if number == last else 0, number == 0)
                       for number, payload in enumerate(payloads)]
            events.append((None, 0, False))  # a pause of 60 ms, with the two repeats of the end
        if self.session.flow.events is None:
            raise ValueError("telephone-event was not negotiated")
        with self.turn(), self.lock:
            self._events.extend(events)
            while self._events and not self.ended:
                self.changed.wait()
        if self.session.flow.events is None:
            raise ValueError("telephone-event is not agreed any more")

    def next_key(self, among=KEYS):
        """Take the first key not read yet and return it, if it is one of these; else ""."""
        with self.lock:
            if not self.keys or self.keys[0] not in among:
                return ""
            key = self.keys.popleft()
            self._fresh = len(self.keys) > 0
            return key

    def drop_next_key(self, among, seconds):
        """Drop the next key if it is one of these and comes within so many seconds."""
        with self.lock:
            self._dropped = among, self.ticks + round(seconds * 50)

    def clear_keys(self):
        """Drop the keys not read yet."""
        with self.lock:
            self.keys.clear()
            self._fresh = False

    def discard(self):
        """Drop what was heard and not asked for."""
        with self.lock:
            self._heard.clear()

    def hear(self):
        """Return the next 20 ms: (number of the tick, PCM, is it voice?), or None at the end."""
        with self.lock:
            while not self._heard and not self.ended:
                self._more.wait()
            return self._heard.popleft() if self._heard else None


class Rerated:
    """Frames of PCM at another rate; what the resampler still holds is waited for once."""

    def __init__(self, resampler, size):
        self._resampler, self._size, self._pcm = resampler, size, bytearray()

    def feed(self, pcm):
        """Return a frame for a frame."""
        self._pcm += self._resampler.feed(pcm)
        if len(self._pcm) < self._size:
            self._pcm[:0] = bytes(self._size - len(self._pcm))
        frame = bytes(self._pcm[:self._size])
        del self._pcm[:self._size]
        return frame
