"""FakeCall has the names and signatures of a real call, and follows its script."""

import asyncio
import inspect
import itertools
import os
import tempfile
import unittest
import wave

import bot
from siprtp.agreement import NOTHING
from siprtp.config import Config
from siprtp.media.flow import Flow
from siprtp.testing import MAX_SAID, FakeCall

HELLO, PCM = b"\1\0" * 800, b"\2\0" * 500
OWN = {"run", "said", "sent_digits", "ringing", "rejected", "transferred_to", "hung_up"}


class Session:
    flow = Flow(NOTHING)


def public(call):
    return {name for name in dir(call) if not name.startswith("_")}


class Signatures(unittest.TestCase):
    def test_it_has_the_public_names_of_a_call(self):
        real = bot.Call("", "", "", {}, Session, None, Config.from_env({}))
        self.assertEqual(public(FakeCall()) - OWN, public(real))

    def test_its_methods_have_the_signatures_of_a_call(self):
        for name in public(bot.Call):
            method = getattr(bot.Call, name)
            if inspect.isfunction(method):
                self.assertEqual(inspect.signature(getattr(FakeCall, name)),
                                 inspect.signature(method), name)


class Script(unittest.TestCase):
    def test_a_parrot_says_each_utterance(self):
        def answer(call):
            call.answer()
            for utterance in call.utterances():
                self.assertEqual(utterance.rate, 8000)
                call.say(utterance.pcm, barge_in=True)
            call.say(HELLO)  # the caller has hung up

        call = FakeCall([HELLO, PCM]).run(answer)
        self.assertEqual((call.said, call.ended, call.hung_up), ([HELLO, PCM], True, False))

    def test_a_menu_reads_keys_and_transfers(self):
        def answer(call):
            call.answer()
            call.say(iter([HELLO, PCM]))
            self.assertEqual((call.digits(4), call.digits(1), call.digits(1).timed_out),
                             ("9999", "0", True))
            call.transfer("sip:desk@10.1.1.1")

        call = FakeCall(keys="9999#0").run(answer)
        self.assertEqual((call.said, call.transferred_to), ([HELLO + PCM], "sip:desk@10.1.1.1"))

    def test_a_transfer_may_fail_and_a_call_be_rejected(self):
        def answer(call):
            call.ring()
            call.answer()
            with self.assertRaises(bot.TransferError) as caught:
                call.transfer("sip:desk@10.1.1.1")
            self.assertEqual(caught.exception.status, 486)

        self.assertTrue(FakeCall(transfer_error=(486, "Busy Here")).run(answer).hung_up)
        call = FakeCall().run(lambda call: call.reject(603))
        self.assertEqual((call.rejected, call.hung_up), (603, False))

    def test_frames_are_20_ms_and_a_recording_is_a_file(self):
        def answer(call):
            call.answer()
            call.record(path)
            try:
                sizes.extend(map(len, call.frames()))
                call.say(HELLO)
            finally:
                recorded.append(call.record(None))

        sizes, recorded = [], []
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "call.wav")
            FakeCall([HELLO, PCM]).run(answer)
            with wave.open(recorded[0]) as file:
                self.assertEqual(file.getnchannels(), 2)
        self.assertEqual(sizes, [320] * 9)

    def test_the_caller_of_a_menu_without_end_hangs_up(self):
        def answer(call):
            call.answer()
            while True:
                call.say(HELLO)
                call.digits(1)

        call = FakeCall(patience=3).run(answer)
        self.assertEqual((call.ended, call.hung_up, len(call.said)), (True, False, 3))

    def test_speech_without_end_is_cut_off_by_the_hang_up(self):
        def answer(call):
            call.answer()
            call.say(itertools.repeat(HELLO))

        self.assertEqual(len(FakeCall().run(answer).said[0]), MAX_SAID * 16000)

    def test_a_silence_of_the_caller_ends_an_iterator_with_a_timeout(self):
        def answer(call):
            call.answer()
            heard.append([utterance.pcm for utterance in call.utterances(timeout=3)])
            heard.append([utterance.pcm for utterance in call.utterances()])

        heard = []
        FakeCall([HELLO, None, PCM, None, PCM]).run(answer)
        self.assertEqual(heard, [[HELLO], [PCM, PCM]])

    def test_it_rejects_the_arguments_that_a_call_rejects(self):
        call = FakeCall()
        call.answer()
        for error, method in (
                (ValueError, lambda: call.say(b"RIFF")), (TypeError, lambda: call.say("hello")),
                (ValueError, lambda: call.say(PCM, barge_in="cough")),
                (ValueError, lambda: call.send_digits("x")), (RuntimeError, call.reject),
                (ValueError, lambda: call.utterances(silence=0)),
                (ValueError, lambda: call.reject(200)), (ValueError, lambda: call.answer(44100)),
                (ValueError, lambda: call.transfer("1000"))):
            with self.assertRaises(error):
                method()

    @unittest.skipUnless(hasattr(asyncio, "TaskGroup"), "needs Python 3.11")
    def test_the_end_of_the_call_may_come_in_a_group(self):
        async def converse(call):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
                group.create_task(asyncio.to_thread(call.say, call.frames()))

        def answer(call):
            call.answer()
            asyncio.run(converse(call))

        self.assertTrue(FakeCall([PCM]).run(answer).ended)

    def test_full_entries_are_no_timeouts_that_cost_patience(self):
        def answer(call):
            call.answer()
            self.assertEqual([call.digits(2) for _ in range(3)], ["12", "34", "56"])
            self.assertTrue(call.digits(1).timed_out)

        self.assertTrue(FakeCall(keys="123456", patience=2).run(answer).hung_up)

    def test_an_unanswered_call_says_nothing(self):
        with self.assertRaises(RuntimeError):
            FakeCall().run(lambda call: call.say(HELLO))


if __name__ == "__main__":
    unittest.main()
