"""The methods of a call, tick by tick.

The tests replace the RTP thread: each wait of a blocking method makes 20 ms pass. So everything
happens in one thread, in a known order.
"""

import array
import contextlib
import io
import itertools
import math
import os
import random
import re
import struct
import sys
import tempfile
import threading
import types
import unittest
import wave
from unittest import mock

import bot
from siprtp import dtmf
from siprtp.agreement import NOTHING, Agreement
from siprtp.bots import loader, service
from siprtp.config import Config, ConfigError
from siprtp.media import codec, conversation
from siprtp.media.flow import Flow
from siprtp.media.resample import resample

SPEECH = array.array("h", [  # 20 ms, loud; bytes as on any machine, for the tests only
    int(8000 * math.sin(2 * math.pi * 440 * n / 8000)) for n in range(160)]).tobytes()
QUIET = bytes(320)


def flow(name="PCMA", kind=8, events=101, sending=True):
    formats = {kind: kind, events: events} if events else {kind: kind}
    return Flow(Agreement(("192.0.2.10", 4000), formats, sending, True, name, events=events))


class Session:
    """Stands for an RTPSession: `coming` is a list of what comes at each tick to come."""

    port = 20000

    def __init__(self):
        self.flow, self.stop_event = flow(), threading.Event()
        self.sock = types.SimpleNamespace(close=lambda: self.sent.append("closed"))
        self.coming, self.sent, self.units = [], [], 0

    def waiting(self, buffer):
        return self.coming.pop(0) if self.coming else []

    def send(self, payload, units, marker=False, event=False):
        self.sent.append((payload, marker, event))
        self.units += units

    def skip(self, units):
        self.units += units


class BotCase(unittest.TestCase):
    def setUp(self):
        self.make()

    def make(self, rate=8000, answered=True, **environ):
        self.session, self.acts, self.ticks = Session(), [], 0
        self.sent = self.session.sent
        self.call = bot.Call("4711", "1000", "Alice", {}, self.session, self,
                             Config.from_env(environ), clock=lambda: self.ticks * 0.020)
        self.service = service.Service(self.call)
        self.at_tick = {}  # tick: function
        self.call._changed.wait = self.call._audio._more.wait = self.wait
        self.sequence = 0
        if answered:
            self.call.answer(rate)

    def ring(self):
        self.acts.append(("ring",))

    def accept(self):
        self.acts.append(("accept",))
        self.service.on_answered()

    def reject(self, status):
        self.acts.append(("reject", status))
        self.service.on_end()

    def hang_up(self, status, why):
        self.acts.append(("hang_up", status, why))
        self.service.on_end()

    def transfer(self, uri, tell):
        self.acts.append(("transfer", uri, tell))

    def wait(self, timeout=None):
        """Stand for the wait of a blocking method: let a tick pass."""
        self.tick()

    def tick(self, times=1):
        for _ in range(times):
            self.ticks += 1
            if self.ticks in self.at_tick:
                self.at_tick[self.ticks]()
            if self.ticks > 20000:
                raise AssertionError("it never ends")
            self.service.tick()

    def hear(self, *frames):
        """Let frames come, one a tick; None is a tick without."""
        for pcm in frames:
            self.sequence += 1
            packet = "PCMA", 7, 160 * self.sequence, pcm and codec.encode_pcma(pcm)
            self.session.coming.append([packet] if pcm else [])

    def said(self):
        """Return the audio sent so far, decoded."""
        return b"".join(codec.decode_pcma(payload) for payload, _, event in self.sent if not event)


def coded(pcm):
    """Return PCM as it is behind A-law."""
    return codec.decode_pcma(codec.encode_pcma(pcm))


class Answering(BotCase):
    def test_ring_answer_and_reject_are_asked_of_the_sip_thread(self):
        self.make(answered=False)
        self.call.ring()
        self.call.answer()
        self.call.answer()
        self.assertEqual(self.acts, [("ring",), ("accept",)])
        self.make(answered=False)
        self.call.reject(486)
        self.assertEqual((self.acts, self.call.ended), ([("reject", 486)], True))

    def test_wrong_arguments_and_calls_at_the_wrong_time_raise(self):
        for status in (200, 302, 401, 700):
            with self.assertRaises(ValueError):
                self.call.reject(status)
        with self.assertRaises(RuntimeError):
            self.call.reject(603)
        self.make(answered=False)
        with self.assertRaises(ValueError):
            self.call.answer(rate=44100)
        for method in (lambda: self.call.say(b""), lambda: next(self.call.frames()),
                       lambda: self.call.digits(1), lambda: self.call.send_digits("1"),
                       lambda: next(self.call.utterances()),
                       lambda: self.call.transfer("sip:a@b"), lambda: self.call.record("x")):
            with self.assertRaises(RuntimeError):
                method()

    def test_after_the_end_everything_raises_call_ended(self):
        self.service.on_end()
        for method in (self.call.ring, lambda: self.call.say(SPEECH), lambda: self.call.digits(1),
                       lambda: self.call.send_digits("1"), lambda: self.call.transfer("sip:a@b"),
                       lambda: next(self.call.frames()), lambda: self.call.record("x")):
            with self.assertRaises(bot.CallEnded):
                method()
        self.call.hangup()
        self.call.clear()

    def test_call_ended_says_why_and_passes_an_except_exception(self):
        self.service.on_end("the caller hung up")
        with self.assertRaisesRegex(bot.CallEnded, "^the caller hung up$"):
            try:
                self.call.say(SPEECH)
            except Exception:
                self.fail("it was caught")

    def test_a_caller_that_gives_up_ends_the_wait_for_the_answer(self):
        self.make(answered=False)
        self.accept = self.service.on_end
        with self.assertRaises(bot.CallEnded):
            self.call.answer()

    def test_a_call_that_the_function_leaves_open_is_ended(self):
        def broken(call):
            raise ZeroDivisionError

        def cancelled(call):
            raise GeneratorExit  # as asyncio's CancelledError, no Exception

        for function, status in ((lambda call: None, 480), (lambda call: call._check(False), 480),
                                 (lambda call: self.service.on_end(), 480),
                                 (lambda call: sys.exit(1), 500),
                                 (broken, 500), (cancelled, 500)):
            with self.assertLogs("bot", "DEBUG") as logged:
                bot.log.debug("so that there is a line")
                self.service.run(function)
            self.assertEqual(self.acts[-1][:2], ("hang_up", status))
            self.assertEqual("Traceback" in "".join(logged.output), status == 500)


class Hearing(BotCase):
    def test_frames_are_320_bytes_in_order_until_the_call_ends(self):
        self.hear(SPEECH, QUIET, SPEECH)
        self.at_tick[4] = self.service.on_end
        frames = list(self.call.frames())
        self.assertEqual(frames[:3], [coded(SPEECH), coded(QUIET), coded(SPEECH)])
        self.assertEqual({len(frame) for frame in frames}, {320})

    def test_frames_begin_with_the_audio_that_follows(self):
        self.hear(SPEECH, SPEECH, QUIET)
        self.tick(2)
        self.assertEqual(next(self.call.frames()), coded(QUIET))

    def test_frames_that_come_while_the_bot_is_busy_are_kept(self):
        frames = self.call.frames()
        self.hear(QUIET, SPEECH, SPEECH)
        next(frames)
        self.tick(2)
        self.assertEqual([next(frames), next(frames)], [coded(SPEECH)] * 2)

    def test_a_lost_frame_is_concealed_and_a_silent_line_is_silence(self):
        self.hear(SPEECH, SPEECH, None, None, *[None] * 20)
        frames = self.call.frames()
        heard = [codec.loudness(next(frames)) for _ in range(24)]
        self.assertGreater(heard[2], 100)
        self.assertGreater(heard[2], heard[3])
        self.assertEqual(heard[-1], 0)

    def test_pcmu_and_a_change_of_codec_are_heard(self):
        frames = self.call.frames()
        self.hear(SPEECH)
        next(frames)
        self.session.flow = flow("PCMU", 0)
        self.session.coming = [[("PCMU", 7, 160, codec.encode_pcmu(SPEECH))]]
        self.assertEqual(next(frames), codec.decode_pcmu(codec.encode_pcmu(SPEECH)))
        self.call.say(SPEECH)
        self.assertEqual(self.sent[-1][0], codec.encode_pcmu(SPEECH))

    def test_another_codec_that_was_agreed_too_is_understood_as_it_comes(self):
        self.session.coming = [[("PCMU", 7, 160, codec.encode_pcmu(SPEECH))],
                               [("PCMA", 7, 320, codec.encode_pcma(SPEECH))]]
        frames = self.call.frames()
        self.assertEqual(next(frames), codec.decode_pcmu(codec.encode_pcmu(SPEECH)))
        self.assertEqual(next(frames), coded(SPEECH))
        self.assertEqual(self.sent[-1][0], codec.encode_pcma(QUIET))

    def test_packets_of_any_length_are_heard_whole(self):
        rng = random.Random(1)
        for name, rate in (("PCMA", 8000), ("G722", 16000)):
            row = codec.CODECS[name]
            pcm = struct.pack(f"<{rate}h", *(rng.randrange(-9000, 9000) for _ in range(rate)))
            payload = row.encoder()(pcm)
            for sizes in ((40,), (100,), (120,), (200,), (1024,), (100, 160)):
                with self.subTest(codec=name, bytes=sizes):
                    self.make(rate=rate)
                    self.session.flow = flow(name)
                    self.session.coming, at = [[] for _ in range(60)], 0
                    for size in itertools.islice(itertools.cycle(sizes), 8000 // sum(sizes)):
                        self.session.coming[at // 160].append((name, 7, at, payload[at:at + size]))
                        at += size
                    frames = self.call.frames()
                    heard = b"".join(next(frames) for _ in range(at // 160))
                    self.assertTrue(heard == row.decoder()(payload)[:len(heard)])

    def test_at_16000_hz_frames_are_640_bytes_and_speech_is_taken_at_that_rate(self):
        self.make(rate=16000)
        self.hear(*[SPEECH] * 5)
        frames = self.call.frames()
        self.assertEqual({len(next(frames)) for _ in range(5)}, {640})
        self.assertAlmostEqual(self.call.say(resample(SPEECH * 50, 8000, 16000)), 1.0)
        levels = [codec.loudness(codec.decode_pcma(payload)) for payload, _, _ in self.sent[-49:-1]]
        self.assertGreater(min(levels), 130)

    def test_an_utterance_is_what_was_said_between_silences(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30, *[QUIET] * 60, *[SPEECH] * 30, *[QUIET] * 60)
        utterances = self.call.utterances()
        first = next(utterances)
        self.assertAlmostEqual(first.start, 1.0, delta=0.3)
        self.assertAlmostEqual(first.end, 1.6, delta=0.3)
        self.assertIn(coded(SPEECH) * 25, first.pcm)
        with wave.open(io.BytesIO(first.wav())) as file:
            self.assertEqual((file.getframerate(), file.readframes(99999)), (8000, first.pcm))
        self.assertAlmostEqual(next(utterances).start, 2.8, delta=0.3)

    def test_a_bot_that_waits_is_woken_for_an_utterance_and_not_for_each_frame(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30, *[QUIET] * 60, *[SPEECH] * 30, *[QUIET] * 60)
        with mock.patch.object(self.call._audio._more, "notify") as notify:
            utterances = self.call.utterances(timeout=5)
            next(utterances)
            self.assertEqual(notify.call_count, 1)
            next(utterances)
            self.assertEqual(list(utterances), [])
        self.assertEqual(notify.call_count, 3)  # the last one: the timeout

    def test_the_wait_for_a_voice_begins_when_the_bot_asks_again(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30, *[QUIET] * 60)
        for _ in self.call.utterances(timeout=2):
            self.tick(500)
            before = self.ticks
        self.assertEqual(self.ticks, before + 100)

    def test_less_silence_may_end_an_utterance(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30, *[QUIET] * 20, *[SPEECH] * 30, *[QUIET] * 60)
        self.assertLess(next(self.call.utterances(silence=0.3)).end, 1.9)
        self.assertLess(self.ticks, 101)

    def test_the_hang_up_ends_an_utterance(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30)
        self.at_tick[85] = self.service.on_end
        utterance, = self.call.utterances()
        self.assertIn(coded(SPEECH) * 28, utterance.pcm)

    def test_speech_before_and_after_a_long_absence_is_two_utterances(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30, *[QUIET] * 90)
        self.assertEqual(list(self.call.utterances(silence=2, timeout=1.5)), [])
        self.tick(3000)
        self.hear(*[SPEECH] * 30, *[QUIET] * 60)
        utterances = self.call.utterances()
        self.assertLess(next(utterances).end, 3)
        self.assertGreater(next(utterances).start, 62)

    def test_a_silence_longer_than_the_timeout_ends_the_iterator(self):
        self.hear(*[QUIET] * 20, *[SPEECH] * 30, *[QUIET] * 60)
        self.call.say(QUIET * 400)  # what was heard meanwhile is no waiting
        self.assertEqual(len(list(self.call.utterances(timeout=2))), 1)
        self.assertEqual(self.ticks, 500)
        self.assertEqual(list(self.call.utterances(timeout=0.2)), [])
        for wrong in ({"silence": -1}, {"silence": 0}, {"timeout": -1}):
            with self.assertRaises(ValueError):
                self.call.utterances(**wrong)

    def test_speech_during_say_is_an_utterance_too(self):
        self.hear(*[QUIET] * 10, *[SPEECH] * 30, *[QUIET] * 60)
        self.call.say(QUIET * 100)
        self.assertAlmostEqual(next(self.call.utterances()).start, 0.2, delta=0.3)

    def test_times_go_on_where_frames_were_not_asked_for(self):
        self.tick(3000)  # 60 s, of which 30 s are kept
        self.hear(*[SPEECH] * 30, *[QUIET] * 60)
        self.assertAlmostEqual(next(self.call.utterances()).start, 60.0, delta=0.3)


class Speaking(BotCase):
    def test_speech_is_sent_in_frames_of_20_ms_and_its_length_returned(self):
        self.assertEqual(self.call.say(SPEECH * 5), 0.1)
        self.assertEqual([len(payload) for payload, *_ in self.sent], [160] * 5)
        self.assertEqual(self.said(), coded(SPEECH) * 5)
        self.assertEqual([marker for _, marker, _ in self.sent], [True] + [False] * 4)

    def test_chunks_of_any_size_are_joined(self):
        pcm = SPEECH * 10
        cut = [0, 1, 2, 300, 333, 1001, 1002, 3199]
        chunks = (pcm[a:b] for a, b in zip(cut, cut[1:] + [None]))
        self.assertEqual(self.call.say(chunks), 0.2)
        self.assertEqual(self.said(), coded(pcm))

    def test_a_rest_is_filled_up_with_silence(self):
        self.assertEqual(self.call.say(SPEECH[:80]), 0.005)
        self.assertEqual(self.said(), coded(SPEECH[:80] + bytes(240)))

    def test_nothing_to_say_takes_no_time(self):
        for nothing in (b"", iter(())):
            self.assertEqual((self.call.say(nothing), self.sent), (0.0, []))

    def test_an_iterator_is_asked_when_less_than_200_ms_wait_and_plays_at_once(self):
        asked = []

        def chunks():
            for _ in range(20):
                asked.append(len(self.sent))
                yield SPEECH * 5

        self.assertEqual(self.call.say(chunks()), 2.0)
        # two chunks wait, and the third is in our hands, until there is room
        self.assertEqual(asked, [max(0, 5 * number - 14) for number in range(20)])

    def test_silence_is_sent_while_an_iterator_has_nothing_yet(self):
        def chunks():
            yield SPEECH + SPEECH[:10]
            self.tick(3)
            yield SPEECH[10:]

        self.assertEqual(self.call.say(chunks()), 0.04)
        self.assertEqual(self.said(), coded(SPEECH + QUIET * 2 + SPEECH))

    def test_anything_but_pcm_raises_with_a_hint(self):
        for what in ("Hello", None, 5, ["Hello"], array.array("h", [1, 2])):
            with self.assertRaisesRegex(TypeError, "bytes"):
                self.call.say(what)
        for sound in (b"RIFF" + bytes(40), [bytearray(b"RIFF"), bytes(40)]):
            for rate in (8000, 24000):  # as speech engines stream it
                with self.assertRaisesRegex(ValueError, r"wav\(\)"):
                    self.call.say(sound, rate)
        self.assertEqual(self.call.say([SPEECH, b"RIFF" * 80]), 0.04)
        with self.assertRaises(ValueError):
            self.call.say(SPEECH, rate=0)
        self.assertEqual(self.call.say(memoryview(SPEECH)), 0.02)

    def test_an_iterable_given_to_say_must_not_call_say(self):
        def chunks(method):
            yield SPEECH
            method()

        for method in (lambda: self.call.say(SPEECH), lambda: self.call.send_digits("1")):
            with self.assertRaises(RuntimeError):
                self.call.say(chunks(method))
        self.assertEqual(self.call.say(SPEECH), 0.02)

    def test_the_end_of_the_call_frees_a_thread_that_waits_to_speak(self):
        self.call._audio._speaker = threading.Thread()
        self.at_tick[3] = self.service.on_end
        with self.assertRaises(bot.CallEnded):
            self.call.say(SPEECH)

    def test_nothing_of_what_was_said_is_left_in_a_resampler(self):
        self.make(rate=16000)
        self.call.say(resample(SPEECH * 5, 8000, 16000) + b"\x40\x1f" * 320)
        self.tick(3)
        self.call.say(bytes(640))
        self.assertEqual({payload for payload, *_ in self.sent[-3:]}, {codec.encode_pcma(QUIET)})

    def test_an_iterator_that_raises_leaves_nothing_behind(self):
        def chunks():
            yield SPEECH * 5
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            self.call.say(chunks())
        self.tick()
        self.assertEqual(self.said(), coded(QUIET))
        self.assertEqual(self.call.say(SPEECH), 0.02)

    def test_another_rate_is_resampled(self):
        pcm = resample(SPEECH * 50, 8000, 24000)
        for given in (pcm, (pcm[at:at + 777] for at in range(0, len(pcm), 777))):
            del self.sent[:]
            self.assertAlmostEqual(self.call.say(given, rate=24000), 1.0, delta=0.02)
            levels = [codec.loudness(codec.decode_pcma(payload)) for payload, *_ in self.sent]
            self.assertGreater(min(levels[1:49]), 130)

    def test_clear_stops_it_and_drops_the_rest(self):
        self.at_tick[3] = self.call.clear
        self.assertEqual(self.call.say(SPEECH * 50), 0.04)
        self.assertEqual(self.said(), coded(SPEECH * 2 + QUIET))
        self.assertEqual(self.call.say(SPEECH), 0.02)

    def test_a_voice_interrupts_with_its_second_frame(self):
        self.hear(*[QUIET] * 10, *[SPEECH] * 3)
        self.assertEqual(self.call.say(SPEECH * 50, barge_in=True), 0.22)
        self.assertEqual(self.said(), coded(SPEECH * 11 + QUIET))

    def test_twenty_ms_are_a_click_in_packets_of_ten_too(self):
        half = codec.encode_pcma(SPEECH)[:80]
        self.session.coming = [[]] * 10 + [[("PCMA", 7, 160, half), ("PCMA", 7, 240, half)]]
        self.assertEqual(self.call.say(SPEECH * 50, barge_in=True), 1.0)

    def test_one_loud_frame_is_a_click(self):
        self.hear(*[QUIET] * 10, SPEECH, *[QUIET] * 10, SPEECH)
        self.assertEqual(self.call.say(SPEECH * 50, barge_in=True), 1.0)

    def test_a_voice_that_has_stopped_without_another_packet_interrupts_no_more(self):
        self.hear(*[QUIET] * 10, *[SPEECH] * 10)
        self.tick(25)
        self.assertEqual(self.call.say(SPEECH * 5, barge_in=True), 0.1)

    def test_a_voice_that_need_not_interrupt_does_not(self):
        self.hear(*[SPEECH] * 50)
        self.assertEqual(self.call.say(SPEECH * 20), 0.4)

    def test_a_key_interrupts_once_also_one_pressed_before(self):
        self.press_at(5, "1")
        self.assertEqual(self.call.say(SPEECH * 50, barge_in=True), 0.08)
        self.assertEqual(self.call.say(SPEECH * 5, barge_in=True), 0.1)
        for _ in "12":
            self.service.on_key("2")
        self.assertEqual(self.call.say(SPEECH * 5, barge_in=True), 0.0)
        self.assertEqual(self.call.say(SPEECH * 5, barge_in=True), 0.1)

    def test_keys_pressed_ahead_skip_one_prompt_each(self):
        for key in "12":
            self.service.on_key(key)
        for key in "12":
            self.assertEqual(self.call.say(SPEECH * 5, barge_in=True), 0.0)
            self.assertEqual(self.call.digits(1), key)
        self.assertEqual(self.call.say(SPEECH * 5, barge_in=True), 0.1)

    def test_voice_alone_or_keys_alone_may_interrupt(self):
        self.hear(*[QUIET] * 10, *[SPEECH] * 30)
        self.press_at(5, "1")
        self.assertEqual(self.call.say(SPEECH * 50, barge_in="voice"), 0.22)
        self.assertEqual(self.call.say(SPEECH * 5, barge_in="keys"), 0.0)
        self.press_at(self.ticks + 5, "2")
        self.assertEqual(self.call.say(SPEECH * 50, barge_in="keys"), 0.08)
        with self.assertRaises(ValueError):
            self.call.say(SPEECH, barge_in="cough")

    def press_at(self, tick, key):
        self.at_tick[tick] = lambda: self.service.on_key(key)

    def test_a_generator_that_is_cut_short_is_closed(self):
        closed = []

        def chunks():
            try:
                while True:
                    yield SPEECH
            finally:
                closed.append(True)

        self.press_at(5, "1")
        self.call.say(chunks(), rate=16000, barge_in=True)
        self.assertEqual(closed, [True])

    def test_the_speech_that_interrupts_is_an_utterance(self):
        self.hear(*[QUIET] * 50, *[SPEECH] * 30, *[QUIET] * 60)
        self.assertLess(self.call.say(SPEECH * 100, barge_in=True), 1.1)
        self.assertIn(coded(SPEECH) * 28, next(self.call.utterances()).pcm)

    def test_the_end_of_the_call_stops_it(self):
        self.at_tick[3] = self.service.on_end
        with self.assertRaises(bot.CallEnded):
            self.call.say(SPEECH * 50)

    def test_silence_between_is_sent_or_not_as_configured(self):
        self.tick(3)
        self.assertEqual(self.said(), coded(QUIET) * 3)
        self.make(SILENCE="off")
        self.tick(3)
        self.call.say(SPEECH * 2)
        self.tick(3)
        self.call.say(SPEECH)
        self.assertEqual(self.said(), coded(SPEECH) * 3)
        self.assertEqual([marker for _, marker, _ in self.sent], [True, False, True])
        self.assertEqual(self.session.units, 9 * 160)  # time passes all the same

    def test_keys_that_are_not_taken_any_more_are_dropped(self):
        self.at_tick[3] = lambda: setattr(self.session, "flow", flow(events=None))
        with self.assertRaises(ValueError):
            self.call.send_digits("1")
        self.assertEqual([event for _, _, event in self.sent], [True, True, False])
        self.assertEqual(self.session.units, 9 * 160)  # the timestamp is not used again

    def test_the_first_packet_after_a_hold_has_the_marker(self):
        for sending in (False, True, True):
            self.session.flow = flow(sending=sending)
            self.tick()
        self.assertEqual([marker for _, marker, _ in self.sent], [True, True, False])

    def test_speech_on_hold_does_not_count_as_played(self):
        self.session.flow = flow(sending=False)
        self.assertEqual(self.call.say(SPEECH * 5), 0.0)
        self.assertEqual(self.ticks, 5)

    def test_nothing_is_sent_before_a_codec_is_agreed(self):
        self.make(answered=False)
        self.session.flow = Flow(NOTHING)
        self.call.answer()
        self.tick(3)
        self.assertEqual(self.sent, [])

    def test_a_tick_that_fails_ends_the_call_and_is_logged_once(self):
        self.session.waiting = lambda buffer: 1 // 0
        with self.assertLogs("bot", "ERROR") as logged:
            self.assertEqual([self.service.tick(), self.service.tick()], [True, True])
        self.assertEqual(len(logged.records), 1)
        self.assertEqual(self.acts[-1], ("hang_up", 500, "its audio failed"))
        self.session.stop_event.set()
        self.assertEqual((self.service.tick(), self.sent), (False, ["closed"]))

    def test_the_socket_is_closed_with_the_last_tick(self):
        self.session.stop_event.set()
        self.assertIs(self.service.tick(), False)
        self.assertEqual(self.sent, ["closed"])


class Keys(BotCase):
    def press(self, keys):
        for key in keys:
            self.service.on_key(key)

    def test_so_many_keys_or_those_before_a_hash(self):
        self.press("12345#6")
        self.assertEqual(self.call.digits(3), "123")
        self.assertEqual(self.call.digits(5), "45")
        self.assertEqual(self.call.digits(until="6"), "")

    def test_unread_keys_are_kept_up_to_a_limit(self):
        self.press("1" * 10000 + "2" * conversation.MAX_KEYS)
        self.assertEqual(self.call.digits(count=None, until="", timeout=0),
                         "2" * conversation.MAX_KEYS)

    def test_a_hash_behind_a_full_entry_belongs_to_it(self):
        self.press("9999#12")
        entry = self.call.digits(4)
        self.assertEqual((entry, entry.terminator, entry.timed_out), ("9999", "#", False))
        self.assertEqual(self.call.digits(2), "12")

    def test_a_hash_that_follows_soon_interrupts_and_spoils_nothing(self):
        self.press("9999")
        self.assertEqual(self.call.digits(4).terminator, "")
        self.at_tick[self.ticks + 50] = lambda: self.press("#")
        said = self.call.say(SPEECH * 100, barge_in="keys")
        self.assertEqual((said, said.interrupted_by), (2.0, ""))
        self.assertEqual(self.call.digits(1, timeout=0), "")

    def test_a_hash_asked_for_by_itself_or_after_a_clear_counts(self):
        for ask in (lambda: self.call.digits(1), self.clear_and_ask,
                    lambda: self.call.digits(2, timeout=0.5, until="")):
            self.press("99")
            self.call.digits(2)
            self.at_tick[self.ticks + 5] = lambda: self.press("#")
            self.assertEqual(ask(), "#")

    def clear_and_ask(self):
        self.call.clear_digits()
        return self.call.digits(1)

    def test_a_hash_that_comes_late_or_behind_another_key_counts(self):
        self.press("99")
        self.call.digits(2)
        self.tick(101)
        self.press("#")
        self.assertEqual(self.call.digits(1), "#")
        self.press("99")
        self.call.digits(2)
        self.press("5#")
        self.assertEqual(self.call.digits(until=""), "5#")

    def test_digits_tell_a_terminator_from_a_timeout(self):
        self.press("12#")
        entry = self.call.digits()
        self.assertEqual((entry, entry.terminator, entry.timed_out), ("12", "#", False))
        self.press("12")
        entry = self.call.digits(timeout=1)
        self.assertEqual((entry, entry.terminator, entry.timed_out), ("12", "", True))
        self.press("#")
        entry = self.call.digits()
        self.assertEqual((entry, entry.terminator, entry.timed_out), ("", "#", False))

    def test_keys_that_wait_can_be_dropped(self):
        self.press("123")
        self.call.clear_digits()
        self.assertEqual(self.call.digits(1, timeout=0), "")
        self.assertEqual(self.call.say(SPEECH, barge_in="keys"), 0.02)

    def test_where_one_key_is_waited_for_every_key_counts(self):
        self.press("#")
        self.assertEqual(self.call.digits(1), "#")
        self.press("1#")
        self.assertEqual(self.call.digits(until=""), "1#")

    def test_keys_are_waited_for_as_long_as_one_comes_in_time(self):
        for at in (200, 440):  # after 4 s, and 4.8 s later
            self.at_tick[at] = lambda: self.press("1")
        self.assertEqual(self.call.digits(3, timeout=5), "11")
        self.assertEqual(self.ticks, 690)
        self.assertEqual(self.call.digits(3, timeout=0), "")

    def test_keys_pressed_while_it_waits_or_while_the_bot_speaks_count(self):
        self.at_tick[2] = lambda: self.press("9")
        self.at_tick[7] = lambda: self.press("8")
        self.call.say(SPEECH * 5)
        self.assertEqual(self.call.digits(2, timeout=None), "98")

    def test_the_end_of_the_call_ends_the_wait(self):
        self.at_tick[2] = self.service.on_end
        with self.assertRaises(bot.CallEnded):
            self.call.digits(2, timeout=None)

    def test_keys_are_sent_as_events_with_one_timestamp_a_press(self):
        self.call.send_digits("1#")
        events = [(payload, marker) for payload, marker, event in self.sent if event]
        self.assertEqual([payload for payload, _ in events],
                         dtmf.event_payloads("1") + dtmf.event_payloads("#"))
        self.assertEqual([marker for _, marker in events], ([True] + [False] * 6) * 2)
        self.assertEqual((self.session.units, self.ticks), (16 * 160, 16))
        with self.assertRaises(ValueError):
            self.call.send_digits("x")
        self.session.flow = flow(events=None)
        with self.assertRaises(ValueError):
            self.call.send_digits("1")


class About(BotCase):
    """What a call tells about itself."""

    def test_it_names_its_call_id_source_and_codec(self):
        call = bot.Call("4711", "1000", "", {"Call-ID": "c@h"}, self.session, self,
                        Config.from_env({}), ("192.0.2.10", 5060))
        self.assertEqual((call.id, call.source, call.codec), ("c@h", ("192.0.2.10", 5060), "PCMA"))
        self.session.flow = Flow(NOTHING)
        self.assertEqual(call.codec, "")

    def test_its_log_names_it(self):
        with self.assertLogs("bot.call", "INFO") as logged:
            self.call.log.info("100 % sure")
            self.call.log.warning("%d keys", 3)
        start = "call from '4711', Call-ID ''"
        self.assertEqual([record.getMessage() for record in logged.records],
                         [f"{start}: 100 % sure", f"{start}: 3 keys"])

    def test_its_public_names_are_those_of_the_documentation(self):
        names = {name for name in dir(self.call) if not name.startswith("_")}
        self.assertEqual(names, {
            "answer", "called", "caller", "clear", "clear_digits", "codec", "digits", "ended",
            "frames", "hangup", "headers", "id", "log", "name", "rate", "record", "reject", "ring",
            "say", "send_digits", "source", "statistics", "transfer", "utterances"})

    def test_say_tells_what_interrupted_it(self):
        for barge_in, by, cut in (
                ("voice", "voice", lambda: self.hear(*[SPEECH] * 4)),
                ("keys", "keys", lambda: self.service.on_key("1")),
                (False, "clear", lambda: self.call.clear())):
            self.make()
            self.hear(*[QUIET] * 100)
            self.tick(100)
            self.at_tick[self.ticks + 5] = cut
            said = self.call.say(SPEECH * 50, barge_in=barge_in)
            self.assertEqual(said.interrupted_by, by)
            self.assertLess(said, 0.5)


class AudioOff(BotCase):
    def test_while_the_audio_is_off_a_bot_goes_on_as_on_hold(self):
        self.call.say(SPEECH)
        del self.sent[:]
        self.session.flow = Flow(NOTHING)
        self.assertEqual(self.call.say(SPEECH * 10), 0.0)
        self.assertEqual(next(self.call.frames()), QUIET)
        self.session.flow = flow()
        self.assertEqual(self.call.say(SPEECH), 0.02)

    def test_also_if_it_is_off_before_the_first_frame(self):
        self.session.flow = Flow(NOTHING)
        self.assertEqual(self.call.say(SPEECH * 10), 0.0)
        self.session.flow = flow()
        self.assertEqual(self.call.say(SPEECH), 0.02)


class Hangup(BotCase):
    """A hang-up leaves one ordinary line, however it reaches the bot."""

    def served(self, function):
        """Let the bot serve an ended call; return the lines of the log and what was asked."""
        self.make()
        self.service.on_end("the caller hung up")
        with self.assertLogs("bot", "DEBUG") as logged:
            self.service.run(function)
        return logged.output, self.acts[-1][:2]

    def test_in_an_exception_group_it_is_no_failure(self):
        class Group(Exception):  # as ExceptionGroup of Python 3.11
            def __init__(self, *exceptions):
                super().__init__("group")
                self.exceptions = exceptions

        def group(*exceptions):
            def function(call):
                raise Group(*exceptions)
            return function

        ended = bot.CallEnded("x")
        lines, act = self.served(group(ended, Group(ended)))
        self.assertEqual((len(lines), act), (1, ("hang_up", 480)))
        self.assertTrue(lines[0].startswith("DEBUG:"))
        within_itself = Group()
        within_itself.exceptions = (within_itself,)
        self.assertEqual(self.served(group(within_itself))[1], ("hang_up", 500))
        lines, act = self.served(group(ended, ValueError("a fault")))
        self.assertEqual(act, ("hang_up", 500))
        self.assertTrue(lines[0].startswith("ERROR:"))

    @unittest.skipUnless(hasattr(threading, "excepthook"), "needs Python 3.8")
    def test_in_a_helper_thread_it_leaves_no_traceback(self):
        self.addCleanup(setattr, threading, "excepthook", threading.excepthook)
        service.quiet_helper_threads()
        self.service.on_end("the caller hung up")
        thread = threading.Thread(target=lambda: self.call.say(SPEECH))
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), self.assertLogs("bot", "DEBUG") as logged:
            thread.start()
            thread.join()
        self.assertEqual(printed.getvalue(), "")
        self.assertIn("ended with its call: the caller hung up", logged.output[0])


class Ending(BotCase):
    def news(self, *told):
        """Let the SIP thread tell one piece of news a tick."""
        for number, news in enumerate(told, 1):
            self.at_tick[self.ticks + number] = (
                self.service.on_end if news == "end" else lambda news=news: self.acts[1][2](*news))

    def silence_before(self, ending):
        """Return how many packets of silence follow the last audio before a hang-up."""
        before = []
        self.hang_up = lambda *args: (before.append(len(self.sent)), self.service.on_end())
        ending()
        quiet = codec.encode_pcma(QUIET)
        last = max(at for at, (payload, *_) in enumerate(self.sent) if payload != quiet)
        return before[0] - last - 1

    def test_a_hang_up_waits_until_the_phone_has_played_the_last_word(self):
        for ending in (lambda: self.call.hangup(), lambda: self.service.run(lambda call: None),
                       lambda: self.service.run(lambda call: 1 / 0)):
            self.make()
            self.call.say(SPEECH * 5)
            with self.assertLogs("bot"):
                bot.log.info("so that there is a line")
                self.assertEqual(self.silence_before(ending), 10)

    def test_a_hang_up_waits_after_keys_and_with_silence_off_too(self):
        self.make(SILENCE="off")
        self.call.send_digits("1")
        self.assertGreaterEqual(self.silence_before(self.call.hangup), 7)
        self.make(SILENCE="off")
        self.call.say(SPEECH)
        self.assertEqual(self.silence_before(self.call.hangup), 10)

    def test_a_hang_up_long_after_the_last_word_waits_for_nothing(self):
        self.call.say(SPEECH)
        self.tick(20)
        ticks = self.ticks
        self.call.hangup()
        self.assertEqual(self.ticks, ticks)

    def test_a_caller_that_hangs_up_first_ends_the_wait(self):
        self.call.say(SPEECH)
        self.at_tick[self.ticks + 3] = lambda: self.service.on_end("the caller hung up")
        ticks = self.ticks
        self.call.hangup()
        self.assertEqual(self.ticks, ticks + 3)

    def test_a_thread_that_goes_on_speaking_does_not_prevent_the_hang_up(self):
        self.call.say(SPEECH)
        self.call._audio._out += SPEECH * 100
        ticks = self.ticks
        self.call.hangup()
        self.assertEqual(self.ticks, ticks + 10)

    def test_hangup_is_asked_of_the_sip_thread(self):
        self.call.hangup()
        self.assertEqual(self.acts[-1], ("hang_up", 480, "its bot hung up"))
        self.assertTrue(self.call.ended)

    def test_a_transfer_that_succeeds_ends_the_call(self):
        for told in ([(100, ""), (180, "Ringing"), (200, "OK")], [(100, ""), "end"]):
            self.make()
            self.news(*told)
            self.call.transfer("sip:desk@10.1.1.1")
            self.assertEqual(self.acts[1][:2], ("transfer", "sip:desk@10.1.1.1"))
            self.assertTrue(self.call.ended)

    def test_one_that_is_refused_raises_with_the_status(self):
        self.news((100, ""), (486, "Busy Here"))
        with self.assertRaises(bot.TransferError) as caught:
            self.call.transfer("tel:+49301234")
        self.assertEqual((caught.exception.status, caught.exception.reason, str(caught.exception)),
                         (486, "Busy Here", "486 Busy Here"))
        self.assertFalse(self.call.ended)

    def test_one_that_failed_before_the_caller_hung_up_has_failed(self):
        self.news((100, ""), (486, "Busy Here"))
        self.at_tick[self.ticks + 2] = lambda: (self.acts[1][2](486, "Busy"), self.service.on_end())
        with self.assertRaises(bot.TransferError):
            self.call.transfer("sip:desk@10.1.1.1")

    def test_a_transfer_without_a_report_leaves_a_line(self):
        with self.assertLogs("bot", "INFO") as logged, self.assertRaises(bot.TransferError):
            self.call.transfer("sip:desk@10.1.1.1", timeout=0)
        self.assertEqual(logged.records[0].getMessage(),
                         "call from '4711', Call-ID '': transfer to 'sip:desk@10.1.1.1': "
                         "no news for 0 s")

    def test_news_of_a_transfer_given_up_do_not_count_for_the_next(self):
        with self.assertRaises(bot.TransferError):
            self.call.transfer("sip:desk@10.1.1.1", timeout=0)
        self.at_tick[self.ticks + 1] = lambda: self.acts[1][2](408, "")
        self.at_tick[self.ticks + 2] = lambda: self.acts[2][2](200, "OK")
        self.call.transfer("sip:other@10.1.1.1")

    def test_a_transfer_without_a_report_is_408(self):
        for told in ([], [(100, "")]):
            self.make()
            self.news(*told)
            with self.assertRaises(bot.TransferError) as caught:
                self.call.transfer("sip:desk@10.1.1.1", timeout=0)
            self.assertEqual(caught.exception.status, 408)

    def test_a_caller_that_hangs_up_before_has_ended_the_call(self):
        self.news("end")
        with self.assertRaises(bot.CallEnded):
            self.call.transfer("sip:desk@10.1.1.1")

    def test_anything_but_a_uri_raises_value_error_and_is_not_sent(self):
        for uri in ("1234", "sip:", "sip:a@b>\r\nX: y", "http://x", "sip:a b@c"):
            with self.assertRaises(ValueError):
                self.call.transfer(uri)
        self.assertEqual(self.acts, [("accept",)])


class Recording(BotCase):
    def read(self, path):
        """Return (left, right) when the file is complete."""
        self.service.on_end()
        self.recorder.thread.join(10)
        with wave.open(path) as file:
            self.assertEqual((file.getnchannels(), file.getsampwidth()), (2, 2))
            pcm = array.array("h", file.readframes(file.getnframes()))
        return pcm[0::2].tobytes(), pcm[1::2].tobytes()

    def test_the_caller_is_left_and_we_are_right_in_step(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "call.wav")
            self.call.record(path)
            self.recorder, = self.call._audio._recorders.values()
            self.hear(QUIET, SPEECH, QUIET)
            self.call.say(SPEECH)
            self.tick(2)
            left, right = self.read(path)
        self.assertEqual(left, coded(QUIET) + coded(SPEECH) + coded(QUIET))
        self.assertEqual(right, SPEECH + QUIET * 2)

    def test_with_record_dir_every_call_has_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(RECORD_DIR=folder)
            self.recorder, = self.call._audio._recorders.values()
            self.tick(2)
            name, = os.listdir(folder)
            self.assertRegex(name, r"^\d{8}-\d{6}-4711-20000\.wav$")
            self.assertEqual(len(self.read(os.path.join(folder, name))[0]), 640)

    def test_a_call_that_is_never_acknowledged_has_none(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(answered=False, RECORD_DIR=folder)
            self.accept = lambda: self.service.on_end("no ACK")
            with self.assertRaises(bot.CallEnded):
                self.call.answer()
            self.assertEqual(os.listdir(folder), [])

    def test_it_can_be_ended(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "call.wav")
            self.call.record(path)
            self.recorder, = self.call._audio._recorders.values()
            self.tick(2)
            self.call.record(None)
            self.tick(2)
            self.assertFalse(self.recorder.thread.is_alive())
            self.assertEqual(len(self.read(path)[0]), 640)

    def test_after_the_end_record_returns_the_complete_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "call.wav")
            self.call.record(path)
            self.tick(2)
            self.service.on_end("the caller hung up")
            self.assertEqual(self.call.record(None), path)
            with wave.open(path) as file:
                self.assertEqual(file.getnframes(), 320)
            self.assertIsNone(self.call.record(None))
            with self.assertRaises(bot.CallEnded):
                self.call.record(path)

    def test_one_of_the_bots_own_goes_on_beside_that_of_the_whole_call(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(RECORD_DIR=folder)
            self.recorder, = self.call._audio._recorders.values()
            self.tick(2)
            self.call.record(os.path.join(folder, "own.wav"))
            self.tick(3)
            self.call.record(None)
            self.tick(1)
            self.assertEqual(len(self.read(self.recorder.path)[0]), 6 * 320)
            self.assertEqual(len(self.read(os.path.join(folder, "own.wav"))[0]), 3 * 320)

    def test_where_none_can_be_written_the_call_goes_on(self):
        with tempfile.TemporaryDirectory() as folder:
            settings = Config.from_env({"RECORD_DIR": folder})
        self.make(answered=False)
        self.call._settings = settings
        with self.assertLogs("bot", "WARNING"):
            self.call.answer()
        self.assertEqual(self.call.say(SPEECH), 0.02)
        with self.assertRaises(OSError):
            self.call.record(os.path.join(folder, "call.wav"))


class Files(unittest.TestCase):
    def write(self, pcm, rate=8000, width=2, channels=1):
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(width)
            out.setframerate(rate)
            out.writeframes(pcm)
        return io.BytesIO(file.getvalue())

    def test_a_wav_file_of_any_width_is_16_bit_pcm(self):
        for pcm, width in ((b"\x80\xff\x00", 1), (b"\0\0\0\x7f\0\x80", 2),
                           (b"\1\0\0\2\0\x7f\3\0\x80", 3), (b"\1\1\0\0\2\2\0\x7f\3\3\0\x80", 4)):
            self.assertEqual(bot.wav(self.write(pcm, width=width)), b"\0\0\0\x7f\0\x80")

    def test_stereo_is_mixed_and_another_rate_resampled(self):
        stereo = array.array("h", [1000, 3000] * 800).tobytes()
        mono = array.array("h", bot.wav(self.write(stereo, rate=16000, channels=2)))
        self.assertEqual((len(mono), mono[200]), (400, 2000))
        self.assertEqual(len(bot.wav(self.write(SPEECH), 16000)), 640)

    def test_anything_but_a_wav_file_raises(self):
        for data in (b"", b"ID3", b"RIFF, but no more than that", b"RIFF\0\0\0\0WAVEfmt ",
                     self.write(SPEECH).getvalue()[:40]):
            with self.assertRaisesRegex(ValueError, "not a WAV file"):
                bot.wav(data)
        with self.assertRaises(OSError):
            bot.wav("/nowhere.wav")
        with tempfile.NamedTemporaryFile() as file, self.assertRaisesRegex(ValueError, file.name):
            bot.wav(file.name)

    def test_other_kinds_are_read_as_well(self):
        def wav(kind, bits, data, extra=b""):
            form = struct.pack("<HHIIHH", kind, 1, 8000, 0, 0, bits) + extra
            return (b"RIFF\0\0\0\0WAVELIST\3\0\0\0abc\0fmt " + struct.pack("<I", len(form)) + form
                    + b"data" + struct.pack("<I", len(data)) + data)

        self.assertEqual(bot.wav(wav(6, 8, codec.encode_pcma(SPEECH))), coded(SPEECH))
        self.assertEqual(bot.wav(wav(7, 8, b"\xff")), b"\0\0")
        self.assertEqual(bot.wav(wav(3, 32, struct.pack("<3f", 0.5, -2.0, 0.0))),
                         struct.pack("<3h", 16384, -32767, 0))
        self.assertEqual(bot.wav(wav(0xFFFE, 24, b"\1\2\3", struct.pack("<HHIH", 22, 24, 4, 1))),
                         b"\2\3")
        for kind, bits in ((2, 4), (1, 40), (3, 64), (49, 0)):  # the last: GSM, MP3
            with self.assertRaisesRegex(ValueError, f"format {kind}"):
                bot.wav(wav(kind, bits, bytes(40)))


class Loading(unittest.TestCase):
    def test_the_function_is_found_and_else_one_line_names_the_setting(self):
        self.assertIs(loader.load("bot:echo"), bot.echo)
        for name in ("nowhere:answer", "bot:nothing", "bot:TERMINATOR_SECONDS"):
            with self.assertRaisesRegex(ConfigError, f"^BOT='{name}'"):
                loader.load(name)

    def test_the_file_that_lacks_the_function_is_named(self):
        with self.assertRaisesRegex(ConfigError, f"{re.escape(bot.__file__)} has no answer$"):
            loader.load("bot:answer")

    def test_an_error_during_the_import_is_named_with_its_place(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch("sys.path", [folder, *sys.path]):
            with open(os.path.join(folder, "a_broken_bot.py"), "w") as file:
                file.write("\nimport os\nos.environ['NOT_SET']\n")
            with self.assertRaisesRegex(ConfigError, r"KeyError: 'NOT_SET' \(.*bot.py, line "):
                loader.load("a_broken_bot:answer")

    def test_a_mistake_is_told_with_the_line_of_the_bot_and_not_with_ours(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch("sys.path", [folder, *sys.path]):
            with open(os.path.join(folder, "a_bot_without_prompt.py"), "w") as file:
                file.write("from bot import wav\nHELLO = wav('missing.wav')\n")
            with open(os.path.join(folder, "a_bot_without_call.py"), "w") as file:
                file.write("def answer():\n    pass\n")
            with self.assertRaisesRegex(ConfigError, r"without_prompt\.py, line 2\)$"):
                loader.load("a_bot_without_prompt:answer")
            with self.assertRaisesRegex(ConfigError, "it must take one argument, the call$"):
                loader.load("a_bot_without_call:answer")

    def test_a_function_that_cannot_serve_a_call_is_refused(self):
        async def asynchronous(call):
            pass

        def generator(call):
            yield

        for function in (asynchronous, generator, lambda: None, lambda a, b: None, "bot:echo"):
            with self.assertRaises(TypeError):
                loader.check(function)

    def test_the_echo_says_what_it_hears(self):
        case = BotCase()
        case.make(answered=False)
        case.hear(*[SPEECH] * 5)
        case.at_tick[7] = case.service.on_end
        with self.assertRaises(bot.CallEnded):
            bot.echo(case.call)
        self.assertIn(coded(SPEECH) * 5, case.said())


if __name__ == "__main__":
    unittest.main()
