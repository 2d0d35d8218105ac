"""The audio of a bot's call: every 20 ms, one frame from the caller and one to the caller.

Two threads share a Conversation: the RTP thread calls `tick`, the bot's thread calls the rest.
`lock` guards what they share.
"""

import collections
import contextlib
import threading

from siprtp.dtmf import FRAME, KEYS, event_payloads
from siprtp.media import codec
from siprtp.media.jitter import Concealer, JitterBuffer
from siprtp.media.resample import Resampler
from siprtp.media.vad import VoiceDetector

BUFFERED = 0.2  # seconds of audio at most that wait to be sent; more would delay a live stream
KEPT = 1500  # frames at most kept for a bot that does not ask for them: 30 s
MAX_KEYS = 500  # keys at most that wait to be read; the oldest are dropped
TAIL = 10  # ticks, 200 ms from the last audio to a hang-up: a phone's jitter buffer still plays
BARGE_IN = 320  # bytes of loud payload in a row that interrupt a speech: 40 ms; less is a click


class Speech:
    """The state of one `play`: what may interrupt it, and how much was queued and sent."""

    def __init__(self, barge_in):
        self.by_voice, self.by_keys = barge_in in (True, "voice"), barge_in in (True, "keys")
        self.whole = False  # all its audio is queued
        self.stopped_by = ""  # "voice", "keys" or "clear" once it is stopped
        self.sent = 0  # bytes


class Conversation:
    """Both directions of a call that a bot serves.

    session: an RTPSession. silence: whether packets are sent while there is nothing to say.
    """

    def __init__(self, session, silence=True):
        self.session = session
        self.rate, self.size = 8000, 320  # Hz of the PCM here; bytes of 20 ms of it
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # all events but a frame from the caller
        self.ended = self.failed = False
        self._recorders = {}  # name: Recorder
        self.keys = collections.deque(maxlen=MAX_KEYS)  # pressed and not read yet
        self._interrupts = False  # whether these keys interrupt the next speech
        self._dropped = "", 0  # if the next key is one of these, drop it; until this tick
        self._more = threading.Condition(self.lock)  # a frame from the caller has come
        self._received = collections.deque(maxlen=KEPT)
        self._listener = None  # the Listener that takes the frames, while a bot waits in `listen`
        self.ticks = 0
        self._out, self._speech = bytearray(), Speech(False)
        self._events = collections.deque()  # (payload or None, timestamp units, marker)
        self._speaker = None  # the thread that is in play() or send_digits()
        self._send_silence, self._paused = silence, True
        self._played_at = 0  # the tick by which the other side has played what was sent
        self._ending = False  # the bot waits for that tick
        self._buffer = bytearray(2048)
        self._detector, self._loud = VoiceDetector(), 0  # bytes in a row
        self._encodes = self._decodes = None  # names of codecs

    # The RTP thread

    def tick(self):
        """Process the packets that came and send what is due; return False after the end."""
        if self.session.stop_event.is_set():
            self.session.sock.close()
            return False
        if self.failed:
            return True  # a later tick closes the socket
        flow = self.session.flow
        if flow.codec == "none":
            if self._encodes is None:
                return True  # our offer waits for its answer
        elif flow.codec != self._encodes:  # while the audio is off, the old codec stays
            self._use_codec(flow.codec)
        for name, ssrc, timestamp, payload in self.session.waiting(self._buffer):
            if name != self._decodes:
                self._set_decoder(name)
            self._jitter.put(ssrc, timestamp, payload)
            if self._loudness and payload:
                self._measure(self._loudness(payload), len(payload))
        pcm, voiced = self._receive()
        with self.lock:
            self.ticks += 1
            self._pass_on(pcm, voiced)
            if self._ending:
                self.changed.notify_all()
            if flow.events is None and self._events:  # a new agreement has no telephone-event
                self.session.skip(FRAME * 8)  # the next packet needs another timestamp
                self._events.clear()
                self.changed.notify_all()
            event = self._events.popleft() if self._events else None
            frame = None if event and event[0] else self._next(flow.sending)
            recorders = list(self._recorders.values())
        if event and event[0]:
            self.session.send(*event, event=True)
        else:
            self._send(frame)
        if frame or event:
            with self.lock:
                self._played_at = self.ticks + TAIL
                self._wake_bot()
        for recorder in recorders:
            recorder.write(pcm, frame or bytes(self.size))
        return True

    def _use_codec(self, name):
        """Encode and decode the codec of this name from now on."""
        self._encodes = name
        self._set_encoder(codec.CODECS[name])
        self._set_decoder(name)

    def _set_encoder(self, row):
        """Encode with this row of CODECS from now on."""
        self._encode, self._to, size = row.encoder(), None, row.sample_rate // 50 * 2
        self._tail = False  # whether the resampler still holds part of a speech
        if row.sample_rate != self.rate:
            self._to = Rerated(Resampler(self.rate, row.sample_rate), size)
        # a codec without memory always encodes silence to the same bytes
        self._silence = self._encode(bytes(size)) if row.loudness else None

    def _set_decoder(self, name):
        """Decode the codec of this name from now on."""
        row = codec.CODECS[name]
        self._decodes, self._decode, self._loudness = name, row.decoder(), row.loudness
        self._jitter, self._concealer, self._from = JitterBuffer(), Concealer(row.sample_rate), None
        if row.sample_rate != self.rate:
            self._from = Rerated(Resampler(row.sample_rate, self.rate), self.size)

    def _receive(self):
        """Return (20 ms of PCM, whether it is voice)."""
        payload, level = self._jitter.pop(), 0
        pcm = self._concealer.feed(self._decode(payload) if payload else None)
        if not payload:
            self._loud = 0
        elif self._loudness:
            level = self._loudness(payload)
        else:
            level = codec.loudness(pcm)
            self._measure(level, len(payload))
        voiced = self._detector.feed(level)
        return self._from.feed(pcm) if self._from else pcm, voiced

    def _pass_on(self, pcm, voiced):
        """Give a frame to the Listener of a bot that waits, or keep it until the bot asks."""
        if self._listener is None:
            # a plain tuple: 1500 objects a call would make garbage collection take long
            self._received.append((self.ticks, pcm, voiced))
            self._more.notify()
        elif self._listener.take(self.ticks, pcm, voiced):
            self._listener = None
            self._more.notify()

    def _measure(self, level, size):
        """Use a packet's level as it arrives: a barge-in need not wait for the jitter buffer."""
        self._loud = self._loud + size if self._detector.is_loud(level) else 0
        if self._loud >= BARGE_IN:
            with self.lock:
                if self._speech.by_voice:
                    self.clear("voice")

    def _next(self, sending):
        """Return the next 20 ms of the speech, or None if there is none."""
        out, speech = self._out, self._speech
        if len(out) < self.size and not (out and speech.whole):
            return None
        frame = bytes(out[:self.size])
        del out[:self.size]
        if sending:
            speech.sent += len(frame)
        return frame.ljust(self.size, b"\0")

    def _wake_bot(self):
        """Wake the bot's thread if its audio or keys are sent, or if there is room for more."""
        room = self.rate * 2 * BUFFERED - len(self._out)
        if not self._events and (not self._out if self._speech.whole else room > 0):
            self.changed.notify_all()

    def _send(self, frame):
        if frame is None and not self._send_silence:
            self._paused = True
            self.session.skip(FRAME)
            return
        if frame is None and self._silence and not self._tail:
            payload = self._silence
        else:
            self._tail = frame is not None and self._to is not None
            frame = frame or bytes(self.size)
            payload = self._encode(self._to.feed(frame) if self._to else frame)
        self.session.send(payload, FRAME, marker=self._paused)
        self._paused = not self.session.flow.sending

    # Any thread

    def press(self, key):
        """Queue a key that the caller pressed, and stop a speech that keys interrupt."""
        with self.lock:
            (dropped, until), self._dropped = self._dropped, ("", 0)
            if key in dropped and self.ticks <= until:
                return
            self.keys.append(key)
            self._interrupts = not self._speech.by_keys
            if self._speech.by_keys:
                self.clear("keys")
            self.changed.notify_all()

    def clear(self, by="clear"):
        """Stop the speech and drop the audio that waits. by: "voice", "keys" or "clear"."""
        with self.lock:
            self._speech.stopped_by = self._speech.stopped_by or by
            self._out.clear()
            self.changed.notify_all()

    def end(self):
        """End the call: wake all threads that wait, and end the recordings."""
        with self.lock:
            self.ended = True
            self._out.clear()
            self._listener = None
            self.changed.notify_all()
            self._more.notify_all()
            for recorder in self._recorders.values():
                recorder.close()
            self._recorders.clear()

    # The bot's thread

    def begin(self, rate):
        """Set the rate of all PCM here, in Hz, whatever the codec. Called before the first tick."""
        self.rate, self.size = rate, rate // 50 * 2
        name = self.session.flow.codec
        if name != "none":  # by the first tick the caller may have switched the audio off
            self._use_codec(name)

    def record(self, name, recorder):
        """Replace the Recorder of this name, by None to end it; return the old one or None."""
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
        """Wait until no other thread speaks. Raises RuntimeError if this thread does already."""
        me = threading.current_thread()
        with self.lock:
            if self._speaker is me:
                raise RuntimeError("the iterable given to say() must not call say() itself")
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
        """Play chunks of PCM; then return (seconds sent, what cut the speech short or "")."""
        with self.turn():
            with self.lock:
                self._speech = speech = Speech(barge_in)
                if speech.by_keys and self._interrupts:
                    self.clear("keys")
                elif speech.by_voice and self._loud >= BARGE_IN:
                    self.clear("voice")
                self._interrupts = self._interrupts and not speech.by_keys
            try:
                for chunk in () if speech.stopped_by else chunks:
                    if not self._queue(speech, chunk):
                        break
                with self.lock:
                    speech.whole = True
                    while self._out and self._goes_on(speech):
                        self.changed.wait()
                    interrupted_by = speech.stopped_by
            finally:
                with self.lock:
                    self.clear()  # drops what is left if chunks raised
                    self._speech = Speech(False)
        return speech.sent / (2 * self.rate), interrupted_by

    def play_out(self):
        """Wait until the other side has played what was sent; it gets silence meanwhile."""
        with self.lock:
            self._ending = self._send_silence = True
            played_at = self._played_at
            while self.ticks < played_at and not self.ended:
                self.changed.wait()

    def _queue(self, speech, chunk):
        """Queue a chunk for the RTP thread once there is room; return whether to go on."""
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(f"say() takes 16-bit PCM as bytes, not {type(chunk).__name__}; "
                            "arrays have a method tobytes()")
        with self.lock:
            while self._goes_on(speech) and len(self._out) >= self.rate * 2 * BUFFERED:
                self.changed.wait()
            if self._goes_on(speech):
                self._out += chunk
            return self._goes_on(speech)

    def _goes_on(self, speech):
        return not (speech.stopped_by or self.ended)

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
            raise ValueError("telephone-event is no longer agreed")

    def next_key(self, among=KEYS):
        """Take and return the first key that waits if it is one of these; else return ""."""
        with self.lock:
            if not self.keys or self.keys[0] not in among:
                return ""
            key = self.keys.popleft()
            self._interrupts = len(self.keys) > 0
            return key

    def drop_next_key(self, among, seconds):
        """Drop the next key if it is one of these and comes within this time."""
        with self.lock:
            self._dropped = among, self.ticks + round(seconds * 50)

    def clear_keys(self):
        """Drop the keys that wait to be read."""
        with self.lock:
            self.keys.clear()
            self._interrupts, self._dropped = False, ("", 0)

    def discard(self):
        """Drop the frames that the bot has not asked for."""
        with self.lock:
            self._received.clear()

    def listen(self, listener):
        """Let a Listener take frames until its wait is over or the call ends.

        The RTP thread hands it the frames, so that the bot's thread need not wake for each: with
        many bots, these wake-ups would cost as much as sending their packets.
        """
        while not listener.ready:
            with self.lock:
                if not self._received and not self.ended:
                    self._listener = listener
                while self._listener is listener:
                    self._more.wait()
                frame = self._received.popleft() if self._received else None
            if frame:
                listener.take(*frame)
            elif self.ended:
                listener.finish()
                return

    def next_frame(self):
        """Return 20 ms as (number of the tick, PCM, whether it is voice), or None at the end."""
        with self.lock:
            while not self._received and not self.ended:
                self._more.wait()
            return self._received.popleft() if self._received else None


class Rerated:
    """Frames of PCM at another rate. The first is padded, since the resampler delays its output."""

    def __init__(self, resampler, size):
        self._resampler, self._size, self._pcm = resampler, size, bytearray()

    def feed(self, pcm):
        """Take a frame and return one."""
        self._pcm += self._resampler.feed(pcm)
        if len(self._pcm) < self._size:
            self._pcm[:0] = bytes(self._size - len(self._pcm))
        frame = bytes(self._pcm[:self._size])
        del self._pcm[:self._size]
        return frame
