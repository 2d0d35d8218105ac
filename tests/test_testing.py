"""FakeCall, the call of a bot's own tests: it has the names and signatures of the real one."""

import inspect
import os
import tempfile
import unittest
import wave

import bot
from siprtp.agreement import NOTHING
from siprtp.config import Config
from siprtp.media.session import Flow
from siprtp.testing import FakeCall

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

    def test_an_unanswered_call_says_nothing(self):
        with self.assertRaises(RuntimeError):
            FakeCall().run(lambda call: call.say(HELLO))


if __name__ == "__main__":
    unittest.main()
