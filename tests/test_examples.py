"""The examples: bots against a scripted call, the voice bot against a server that misbehaves."""

import contextlib
import io
import json
import logging
import os
import subprocess
import tempfile
import threading
import types
import unittest
import wave
from collections.abc import Generator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from bot import CallEnded, TransferError
from examples import ai_client, echo_bot, local_ai, menu, parrot, prompts, voice_bot, voicemail
from siprtp.media.vad import Utterance

PATIENCE = 5.0  # seconds, for what another thread does at once
HELLO = Utterance(b"\1\0" * 8000, 1.0, 2.0, 8000)
SECOND = 2 * ai_client.TTS_RATE  # bytes
TRANSCRIPTIONS, CHAT, SPEECH = (
    "/v1/audio/transcriptions", "/v1/chat/completions", "/v1/audio/speech")


class FakeCall:
    """A call as a bot sees it. keys: what each digits() returns; says: what is said, in turn.

    patience: for each say(), the seconds after which the caller interrupts, None for never.
    """

    caller, rate = "4711", 8000
    log = logging.getLogger("bot.call")

    def __init__(self, utterances=(), keys=(), patience=()):
        self.answered, self.asked, self.said, self.sent = False, [], [], []
        self._utterances, self._keys, self._patience = utterances, list(keys), list(patience)
        self.transferred, self.refusal = [], None
        self.recorded, self.timeouts = [], []

    def __str__(self):
        return "the call"

    def answer(self):
        self.answered = True

    def frames(self):
        yield from (b"one", b"two")

    def utterances(self, timeout=None):
        self.timeouts.append(timeout)
        yield from self._utterances

    def record(self, path):
        self.recorded.append(path)

    def digits(self, count=None, timeout=5.0, until="#"):
        self.asked.append((count, timeout, until))
        if not self._keys:
            return ""
        keys = self._keys.pop(0)
        if keys is None:
            raise CallEnded
        return keys

    def say(self, pcm, rate=None, barge_in=False):
        limit = self._patience.pop(0) if self._patience else None
        limit = None if limit is None else limit * 2 * (rate or self.rate)
        heard = b""
        for chunk in [pcm] if isinstance(pcm, bytes) else pcm:
            heard += chunk
            if limit is not None and len(heard) >= limit:
                heard = heard[:int(limit)]
                break
        if isinstance(pcm, Generator):
            pcm.close()
        self.said.append((heard, rate, barge_in))
        return len(heard) / (2 * (rate or self.rate))

    def send_digits(self, digits):
        self.sent.append(digits)

    def transfer(self, uri):
        self.transferred.append(uri)
        if self.refusal:
            raise self.refusal


class Small(unittest.TestCase):
    def test_the_echo_says_what_it_hears(self):
        call = FakeCall()
        echo_bot.answer(call)
        self.assertTrue(call.answered)
        self.assertEqual(call.said, [(b"onetwo", None, False)])

    def test_the_parrot_beeps_and_repeats_each_utterance_until_it_is_talked_over(self):
        call = FakeCall([HELLO, HELLO._replace(pcm=b"\2\0")])
        parrot.answer(call)
        self.assertEqual([len(call.said[0][0]), *call.said[1:]],
                         [3200, (HELLO.pcm, None, "voice"), (b"\2\0", None, "voice")])


class Voicemail(unittest.TestCase):
    def test_only_the_speech_after_the_tone_is_recorded(self):
        call = FakeCall([HELLO, HELLO])
        call.caller = "../a b"
        with mock.patch.dict(os.environ, MAILBOX="/mail"), \
                mock.patch("examples.voicemail.prompt", lambda name, text: name.encode()):
            voicemail.answer(call)
        path, end = call.recorded
        self.assertRegex(path, r"^/mail/\d{8}-\d{6}-___a_b\.wav$")
        self.assertIsNone(end)
        self.assertEqual([call.said[0][0][:5], call.said[1][0]], [b"leave", b"thanks"])
        self.assertEqual(call.timeouts, [3])


class Menu(unittest.TestCase):
    def setUp(self):
        patch = mock.patch.object(menu, "prompt", lambda name, text: name.encode())
        patch.start()
        self.addCleanup(patch.stop)

    def run_menu(self, *keys, refusal=None):
        call = FakeCall(keys=keys)
        call.refusal = refusal
        with contextlib.suppress(CallEnded):
            menu.answer(call)
        self.assertTrue(call.answered)
        return call, [pcm.decode() for pcm, _, _ in call.said]

    def test_three_rounds_without_a_choice_end_with_good_bye(self):
        for keys in ((), ("", "7", "*")):
            call, said = self.run_menu(*keys)
            self.assertEqual(said, ["menu", "menu", "menu", "bye"])
            self.assertEqual(call.asked, [(1, 5.0, "#")] * 3)

    def test_the_menu_can_be_interrupted(self):
        call, _ = self.run_menu()
        self.assertTrue(call.said[0][2])

    def test_one_is_an_echo_and_the_menu_again(self):
        _, said = self.run_menu("1", None)
        self.assertEqual(said, ["menu", "echo", "onetwo", "menu"])

    def test_two_gives_the_keys_back(self):
        call, said = self.run_menu("2", "4711", None)
        self.assertEqual((said, call.sent), (["menu", "number", "menu"], ["4711"]))

    def test_zero_transfers_to_the_operator(self):
        with mock.patch.object(menu, "OPERATOR", "sip:op@192.0.2.10"):
            call, _ = self.run_menu("0", None)
        self.assertEqual(call.transferred, ["sip:op@192.0.2.10"])

    def test_a_transfer_that_fails_is_regretted_and_the_menu_goes_on(self):
        for refusal in (TransferError(486, "Busy Here"), ValueError("'' is not a sip: URI")):
            _, said = self.run_menu("0", "", None, refusal=refusal)
            self.assertEqual(said, ["menu", "operator", "sorry", "menu", "menu"])

    def test_a_choice_gives_three_more_rounds(self):
        _, said = self.run_menu("9", "9", "2", "1", "9", "9", "9")
        self.assertEqual(said, ["menu", "menu", "menu", "number", "menu", "menu", "menu", "bye"])


class Prompts(unittest.TestCase):
    def setUp(self):
        prompts.prompt.cache_clear()
        self.addCleanup(prompts.prompt.cache_clear)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = folder.name
        with open(os.path.join(self.path, "menu.wav"), "wb") as file:
            file.write(wav(b"\5\0" * 8000))

    def prompt(self, name, found, spoken=b""):
        run = mock.Mock(return_value=types.SimpleNamespace(stdout=spoken))
        with mock.patch.dict(os.environ, PROMPTS=self.path), \
                mock.patch.object(prompts.shutil, "which", lambda tool: found), \
                mock.patch.object(prompts.subprocess, "run", run):
            return prompts.prompt(name, "$(rm) -x"), run

    def test_a_file_is_taken_before_all_else(self):
        self.assertEqual(self.prompt("menu", "/usr/bin/espeak-ng")[0], b"\5\0" * 8000)

    def test_without_a_file_espeak_says_the_text_which_no_shell_and_no_option_sees(self):
        pcm, run = self.prompt("bye", "/usr/bin/espeak-ng", wav(b"\6\0" * 80))
        self.assertEqual(pcm, b"\6\0" * 80)
        self.assertEqual(run.call_args[0], (["espeak-ng", "--stdin", "--stdout"],))
        self.assertEqual(run.call_args[1]["input"], b"$(rm) -x")

    def test_without_espeak_a_tone_sounds(self):
        pcm, run = self.prompt("bye", None)
        self.assertEqual((pcm, run.called), (prompts.tone(440, 0.5), False))

    def test_a_tone_is_a_sine_of_that_pitch(self):
        pcm = prompts.tone(1000, 0.5)
        self.assertEqual(len(pcm), 8000)
        self.assertEqual(pcm[:16], pcm[16:32])
        self.assertEqual(pcm[4:6], (6000).to_bytes(2, "little"))


class Sentences(unittest.TestCase):
    def test_cut_where_they_end(self):
        for text, expected in (
                ("One thing. Another thing! A third? The rest",
                 ["One thing.", "Another thing!", "A third?", "The rest"]),
                ("Pi is 3.14 or so. Really.", ["Pi is 3.14 or so.", "Really."]),
                ("Dr. No comes at 5 p.m. or later.", ["Dr. No comes at 5 p.m. or later."]),
                ("1. Tea. 2. Milk. That is it. Bye", ["1. Tea.", "2. Milk.", "That is it.", "Bye"]),
                ("First line\nSecond\n\nThird", ["First line", "Second", "Third"]),
                ("Wait... what? Yes", ["Wait...", "what?", "Yes"]),
                ("**\n---\n...", []), ("", []), ("   ", []),
                ("See www.example.org. Bye!", ["See www.example.org.", "Bye!"]),
                ("Größe zählt. Ökologie auch.", ["Größe zählt.", "Ökologie auch."])):
            for size in (1, 3, 1000):
                pieces = [text[at:at + size] for at in range(0, len(text), size)]
                self.assertEqual(list(voice_bot.sentences(iter(pieces))), expected, (text, size))

    def test_each_is_given_before_the_next_is_complete(self):
        taken = []
        pieces = (taken.append(piece) or piece for piece in ["One thing", ". ", "Anoth", "er."])
        found = voice_bot.sentences(pieces)
        self.assertEqual((next(found), taken), ("One thing.", ["One thing", ". "]))


class Ahead(unittest.TestCase):
    def test_everything_comes_in_order_from_another_thread(self):
        threads = []

        def count():
            for number in range(3 * voice_bot.AHEAD):
                threads.append(threading.current_thread())
                yield b"%d" % number

        found = [chunk for chunk in voice_bot.ahead(count()) if chunk]
        self.assertEqual(found, [b"%d" % number for number in range(3 * voice_bot.AHEAD)])
        self.assertNotIn(threading.current_thread(), threads)

    def test_no_more_is_made_than_fits_and_closing_ends_the_making(self):
        made, full, closed = [], threading.Event(), threading.Event()

        def forever():
            try:
                while True:
                    made.append(1)
                    if len(made) == voice_bot.AHEAD + 1:
                        full.set()
                    yield b"x"
            finally:
                closed.set()

        with contextlib.closing(voice_bot.ahead(forever())) as chunks:
            next(chunks)
            self.assertTrue(full.wait(PATIENCE))
        self.assertTrue(closed.wait(PATIENCE))
        self.assertLessEqual(len(made), voice_bot.AHEAD + 2)

    def test_while_nothing_comes_empty_chunks_let_say_look_around(self):
        go = threading.Event()

        def slow():
            go.wait(PATIENCE)
            yield b"x"

        chunks = voice_bot.ahead(slow())
        self.assertEqual(next(chunks), b"")
        go.set()
        self.assertEqual(b"".join(chunks), b"x")

    def test_an_error_in_the_thread_is_raised_after_the_chunks_before_it(self):
        def fail():
            yield b"x"
            raise ai_client.AIError("broken")

        found = []
        with self.assertRaisesRegex(ai_client.AIError, "broken"):
            found.extend(voice_bot.ahead(fail()))
        self.assertEqual(b"".join(found), b"" if not found else b"x")


class Memory(unittest.TestCase):
    def test_the_part_that_was_played_ends_where_the_sound_was_cut(self):
        said = [["One two three four.", 2 * SECOND], ["Five six.", SECOND]]
        for seconds, text in ((0, ""), (1, "One two"), (1.2, "One two three"),
                              (2, "One two three four."), (2.2, "One two three four. Five"),
                              (3, "One two three four. Five six."), (9, "One two three four. "
                                                                        "Five six.")):
            self.assertEqual(voice_bot.heard(said, seconds), text, seconds)

    def test_a_sentence_without_sound_yet_was_not_heard(self):
        self.assertEqual(voice_bot.heard([["One.", SECOND], ["Two.", 0]], 1), "One.")
        self.assertEqual(voice_bot.heard([], 0), "")

    def test_the_roles_take_turns_and_old_messages_are_forgotten(self):
        history = []
        for number in range(40):
            voice_bot.remember(history, "user", f"question {number}")
            self.assertEqual(history[0]["role"], "user")
            self.assertLessEqual(len(history), voice_bot.HISTORY)
            voice_bot.remember(history, "assistant", f"answer {number}")
        voice_bot.remember(history, "user", "and")
        voice_bot.remember(history, "user", "so on")
        self.assertEqual([m["content"] for m in history[-2:]], ["answer 39", "and so on"])


class Served(unittest.TestCase):
    """Tests with an HTTP server on the loopback, at which ai_client looks."""

    def serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.patch(ai_client, "URL", f"http://127.0.0.1:{server.server_port}/v1")
        return server

    def patch(self, target, name, value):
        patch = mock.patch.object(target, name, value)
        patch.start()
        self.addCleanup(patch.stop)


class AIHandler(BaseHTTPRequestHandler):
    """Serves what `script` of the server has for a path: a function of this, or the default."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.body = body if self.path == TRANSCRIPTIONS else json.loads(body)
        self.server.requests.append((self.path, self.headers, self.body))
        try:
            self.server.script[self.path](self)
        except ConnectionError:
            self.close_connection = True

    def reply(self, *parts, chunks=(), status=200, cut=False):
        """Send chunks of bytes; cut: and nothing to mark the end."""
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks or parts:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *args):
        pass


def transcript(text):
    return lambda handler: handler.reply(json.dumps({"text": text}).encode())


def deltas(*texts):
    """Return what the model writes as server-sent events."""
    return [b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": text}}]}).encode()
            for text in texts]


def writes(*texts):
    first = b'data: {"choices": []}\n\ndata: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
    return lambda handler: handler.reply(b": hello\n\n", first, *deltas(*texts),
                                         b"data: [DONE]\n\n")


def voice(handler):
    """Say each character of the text as 0.1 s of its code."""
    handler.reply(*(bytes([ord(c), 0]) * (SECOND // 20) for c in handler.body["input"]))


def voiced(text):
    return b"".join(bytes([ord(c), 0]) * (SECOND // 20) for c in text)


def wav(pcm, rate=8000):
    return HELLO._replace(pcm=pcm, rate=rate).wav()


class VoiceBot(Served):
    def setUp(self):
        self.server = self.serve(AIHandler)
        self.server.requests = []
        self.script = self.server.script = {
            TRANSCRIPTIONS: transcript(" Hello there. "),
            CHAT: writes("Hi", " you. ", "Bye", "."), SPEECH: voice}
        self.patch(voice_bot, "prompt", lambda name, text: name.encode())

    def talk(self, utterances=1, **script):
        """Run the bot through utterances of a caller; return (call, lines logged)."""
        call = FakeCall([HELLO] * utterances, **script)
        with self.assertLogs(voice_bot.log, "INFO") as logged:
            voice_bot.answer(call)
        return call, [record.getMessage() for record in logged.records]

    def asked(self, path):
        return [body for asked, _, body in self.server.requests if asked == path]

    def test_the_reply_of_the_model_is_spoken(self):
        call, _ = self.talk()
        self.assertTrue(call.answered)
        self.assertEqual(call.said, [(voiced("Hi you.") + voiced("Bye."), 24000, "voice")])

    def test_the_requests_are_as_the_interface_wants_them(self):
        self.talk()
        (_, headers, form), (_, _, chat), first, second = self.server.requests
        parts = local_ai.form(form, headers["Content-Type"])
        self.assertEqual(parts, {"model": b"whisper-1", "file": HELLO.wav()})
        self.assertIn(b'name="file"; filename="a.wav"\r\n', form)  # the name tells the format
        self.assertEqual((chat["model"], chat["stream"]), ("gpt-4o-mini", True))
        self.assertEqual([m["role"] for m in chat["messages"]], ["system", "user"])
        self.assertEqual(chat["messages"][1]["content"], "Hello there.")
        self.assertEqual([first[2], second[2]], [
            {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm"}
            for text in ("Hi you.", "Bye.")])
        self.assertNotIn("Authorization", headers)

    def test_the_model_is_told_what_was_said_before(self):
        self.talk(utterances=2)
        told = [(m["role"], m["content"]) for m in self.asked(CHAT)[1]["messages"][1:]]
        self.assertEqual(told, [("user", "Hello there."), ("assistant", "Hi you. Bye."),
                                ("user", "Hello there.")])

    def test_speech_begins_before_the_text_is_complete(self):
        spoken = threading.Event()

        def chat(handler):
            def late():
                yield deltas("Hi you. ")[0]
                yield deltas("Bye." if spoken.wait(PATIENCE) else "Too late.")[0]
                yield b"data: [DONE]\n\n"
            handler.reply(chunks=late())

        def speak(handler):
            spoken.set()
            voice(handler)

        self.script.update({CHAT: chat, SPEECH: speak})
        call, _ = self.talk()
        self.assertEqual(call.said[0][0], voiced("Hi you.") + voiced("Bye."))

    def test_while_a_sentence_is_played_the_next_is_fetched(self):
        fetched, outcome = threading.Event(), []

        def speak(handler):
            if handler.body["input"] == "Bye.":
                fetched.set()
            voice(handler)

        class Slow(FakeCall):
            def say(self, pcm, rate=None, barge_in=False):
                first = next(chunk for chunk in pcm if chunk)
                outcome.append(fetched.wait(PATIENCE))
                return super().say((first, *pcm), rate, barge_in)

        self.script[SPEECH] = speak
        with self.assertLogs(voice_bot.log, "INFO"):
            voice_bot.answer(Slow([HELLO]))
        self.assertEqual(outcome, [True])

    def test_an_interrupted_reply_is_remembered_as_far_as_it_was_heard(self):
        class Late(FakeCall):
            def say(self, pcm, rate=None, barge_in=False):
                return super().say(list(pcm), rate, barge_in)  # fetch all of it first

        with self.assertLogs(voice_bot.log, "INFO"):
            voice_bot.answer(Late([HELLO] * 2, patience=[0.35]))  # of 0.7: "Hi" of "Hi you."
        told = [m["content"] for m in self.asked(CHAT)[1]["messages"][1:]]
        self.assertEqual(told, ["Hello there.", "Hi", "Hello there."])

    def test_a_reply_that_was_not_played_joins_two_questions(self):
        self.talk(utterances=2, patience=[0])
        told = [(m["role"], m["content"]) for m in self.asked(CHAT)[1]["messages"][1:]]
        self.assertEqual(told, [("user", "Hello there. Hello there.")])

    def test_an_interruption_hangs_up_on_the_server(self):
        gone = threading.Event()

        def speak(handler):
            try:
                handler.reply(*([b"\1\0" * SECOND] * 1000))
            except ConnectionError:
                gone.set()

        self.script[SPEECH] = speak
        self.talk(patience=[1])
        self.assertTrue(gone.wait(PATIENCE))

    def test_noise_without_words_gets_no_reply(self):
        self.script[TRANSCRIPTIONS] = transcript(" \n")
        call, _ = self.talk()
        self.assertEqual((call.said, self.asked(CHAT)), ([], []))

    def test_an_empty_reply_is_none(self):
        self.script[CHAT] = writes()
        call, logged = self.talk()
        self.assertEqual(call.said, [(b"", 24000, "voice")])
        self.assertIn("first audio never", logged[-1])

    def test_the_time_to_the_first_audio_is_logged_step_by_step(self):
        _, logged = self.talk()
        self.assertRegex(logged[-1], r"^the call: said 'Hi you. Bye.', first audio "
                         r"-?\d+\.\d\d s after the end of speech: silence -?\d+\.\d\d, "
                         r"transcription \d+\.\d\d, model \d+\.\d\d, voice \d+\.\d\d$")

    def test_each_failure_is_one_line_and_an_apology(self):
        def status(handler):
            handler.reply(b'{"error": "no such model"}', status=500)

        def cut(handler):
            handler.reply(b"data: ", cut=True)

        def vanish(handler):
            handler.close_connection = True

        cases = [(path, broken, expected) for path in (TRANSCRIPTIONS, CHAT, SPEECH)
                 for broken, expected in ((status, "500 b'{.error.: .no such model.}'"),
                                          (cut, "IncompleteRead|cut short"),
                                          (vanish, "RemoteDisconnected"))]
        cases += [(TRANSCRIPTIONS, reply, kind) for reply, kind in (
            (lambda handler: handler.reply(b"<html>"), "JSONDecodeError"),
            (lambda handler: handler.reply(b"\xff\xfe\xfd"), "UnicodeDecodeError"),
            (lambda handler: handler.reply(b"{}"), "KeyError"),
            (lambda handler: handler.reply(b"[]"), "TypeError"),
            (lambda handler: handler.reply(b'{"text": null}'), "AttributeError"))]
        cases += [(CHAT, lambda handler, data=data: handler.reply(b"data: %b\n\n" % data), kind)
                  for data, kind in ((b"{", "JSONDecodeError"), (b'{"error": "x"}', "KeyError"),
                                     (b'{"choices": [{}]}', "KeyError"), (b"7", "TypeError"))]
        cases += [(CHAT, lambda handler: handler.reply(b""), "EOFError: the reply is cut short")]
        for path, broken, expected in cases:
            before = self.script[path]
            self.script[path] = broken
            call, logged = self.talk()
            self.script[path] = before
            warning = logged[-1]
            self.assertIn(f"the call: {path[3:]}: ", warning)
            self.assertRegex(warning, expected)
            self.assertNotIn("\n", warning)
            self.assertEqual(call.said, [(b"sorry", None, False)], (path, expected))

    def test_a_server_that_is_not_there_is_a_failure(self):
        self.patch(ai_client, "URL", "http://127.0.0.1:1/v1")
        call, logged = self.talk()
        self.assertEqual(call.said, [(b"sorry", None, False)])
        self.assertIn("ConnectionRefusedError", logged[-1])

    def test_an_url_of_another_kind_is_a_failure(self):
        for url in ("ftp://127.0.0.1/v1", "127.0.0.1:8080", "http://127.0.0.1:x", "http://"):
            self.patch(ai_client, "URL", url)
            call, _ = self.talk()
            self.assertEqual(call.said, [(b"sorry", None, False)], url)

    def test_a_silent_server_is_a_failure(self):
        over = threading.Event()
        self.addCleanup(over.set)
        self.patch(ai_client, "TIMEOUT", 0.05)
        for path in (TRANSCRIPTIONS, CHAT, SPEECH):
            before = self.script[path]
            self.script[path] = lambda handler: over.wait(PATIENCE)
            call, logged = self.talk()
            self.script[path] = before
            self.assertEqual(call.said, [(b"sorry", None, False)], path)
            self.assertIn("timed out", logged[-1])

    def test_three_failures_in_a_row_end_the_call(self):
        outcomes = iter([500, 500, 200, 500, 500, 500, 200])

        def fickle(handler):
            handler.reply(b'{"text": ""}', status=next(outcomes))

        self.script[TRANSCRIPTIONS] = fickle
        call, _ = self.talk(utterances=7)
        self.assertEqual((len(call.said), len(self.server.requests)), (5, 6))

    def test_the_end_of_the_call_ends_the_bot_and_what_it_fetches(self):
        class Ending(FakeCall):
            def say(self, pcm, rate=None, barge_in=False):
                raise CallEnded

        with self.assertRaises(CallEnded), self.assertLogs(voice_bot.log, "INFO"):
            voice_bot.answer(Ending([HELLO]))

    def test_the_key_is_sent_and_never_logged(self):
        def echo(handler):
            handler.reply(handler.headers["Authorization"].encode(), status=401)

        self.patch(ai_client, "KEY", "sk-secret")
        for path in (TRANSCRIPTIONS, CHAT, SPEECH):
            before = self.script[path]
            self.script[path] = echo
            _, logged = self.talk()
            self.script[path] = before
            self.assertIn("401 b'Bearer ***'", logged[-1])
            self.assertNotIn("secret", "".join(logged))
        self.patch(ai_client, "KEY", "sk-“secret”")  # pasted from a text that was made pretty
        _, logged = self.talk()
        self.assertNotIn("secret", "".join(logged))


class Engines:
    """Stands for pocketsphinx and espeak-ng."""

    def __init__(self, text="", spoken=b""):
        self.text, self.spoken, self.heard, self.said = text, spoken, [], []

    def hear(self, sound):
        self.heard.append(sound)
        return self.text

    def run(self, command, **options):
        self.said.append((command, options["input"]))
        return types.SimpleNamespace(stdout=wav(self.spoken, 22050))


class LocalAI(Served):
    def setUp(self):
        self.engines = Engines("tell me a joke", b"\1\0" * 22050)
        self.patch(local_ai, "RECOGNIZER", self.engines)
        self.patch(local_ai.subprocess, "run", self.engines.run)
        self.port = self.serve(local_ai.Handler).server_port

    def post(self, path, body, **headers):
        """Return (status, content type, body) of a POST."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, 10)) as connection:
            connection.request("POST", path, body, headers)
            with connection.getresponse() as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()

    def error(self, path, body, status, **headers):
        got, kind, text = self.post(path, body, **headers)
        self.assertEqual((got, kind), (status, "application/json"), text)
        return json.loads(text)["error"]["message"]

    def test_the_client_of_the_voice_bot_gets_on_with_it(self):
        with self.assertLogs(local_ai.log, "INFO"):
            self.assertEqual(ai_client.transcribe(wav(b"\7\0" * 800)), "tell me a joke")
        self.assertEqual(len(self.engines.heard[0]), 3200)  # 16000 Hz
        pieces = list(ai_client.chat([{"role": "user", "content": "Tell me a joke!"}]))
        self.assertEqual("".join(pieces), local_ai.REPLIES["tell me a joke"])
        self.assertGreater(len(pieces), 5)
        pcm = b"".join(ai_client.synthesize("Hello."))
        self.assertEqual((len(pcm), self.engines.said),
                         (48000, [(["espeak-ng", "-v", "en-us", "--stdin", "--stdout"],
                                   b"Hello.")]))

    def test_a_reply_that_is_not_streamed_is_one_json(self):
        request = {"messages": [{"role": "user", "content": "good bye"}]}
        status, kind, body = self.post(CHAT, request)
        self.assertEqual((status, kind), (200, "application/json"))
        self.assertEqual(json.loads(body)["choices"][0]["message"]["content"],
                         local_ai.REPLIES["good bye"])

    def test_speech_is_given_as_a_wav_file_too(self):
        status, kind, body = self.post(SPEECH, {"input": "x", "response_format": "wav"})
        self.assertEqual((status, kind), (200, "audio/wav"))
        with wave.open(io.BytesIO(body)) as file:
            self.assertEqual((file.getframerate(), file.getnframes()), (24000, 24000))

    def test_voices_of_espeak_are_taken_and_nothing_like_an_option(self):
        for voice, used in (("en-gb", "en-gb"), ("de+f3", "de+f3"), ("alloy", "en-us"),
                            ("-w/tmp/x", "en-us"), ("", "en-us")):
            self.post(SPEECH, {"input": "x", "voice": voice, "response_format": "pcm"})
            self.assertEqual(self.engines.said[-1][0][2], used)

    def test_bad_requests_are_told_as_json(self):
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        part = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\nx\r\n--b--\r\n'
        for path, body, headers in (
                (CHAT, b"{", {}), (CHAT, {}, {}), (CHAT, [], {}), (CHAT, {"messages": []}, {}),
                (SPEECH, {"response_format": "pcm"}, {}), (SPEECH, b"\xff", {}),
                (SPEECH, {"input": "x", "response_format": "mp3"}, {}),
                (SPEECH, {"input": 7, "response_format": "pcm"}, {}),
                (TRANSCRIPTIONS, b"RIFF", {}), (TRANSCRIPTIONS, part % b"model", form),
                (TRANSCRIPTIONS, part % b"file", form), (TRANSCRIPTIONS, b"", form)):
            self.assertTrue(self.error(path, body, 400, **headers))

    def test_other_paths_and_huge_bodies_are_refused(self):
        self.assertIn("/v1/models", self.error("/v1/models", b"", 404))
        self.assertTrue(self.error(CHAT, b"", 413, **{"Content-Length": str(10 ** 9)}))

    def test_missing_engines_are_named(self):
        self.patch(local_ai.subprocess, "run", mock.Mock(side_effect=FileNotFoundError))
        speech = {"input": "x", "response_format": "pcm"}
        self.assertIn("apt-get install espeak-ng", self.error(SPEECH, speech, 501))
        failed = subprocess.CalledProcessError(1, "espeak-ng")
        self.patch(local_ai.subprocess, "run", mock.Mock(side_effect=failed))
        self.assertIn("exit status 1", self.error(SPEECH, speech, 500))
        with mock.patch.dict("sys.modules", pocketsphinx=None), \
                self.assertRaisesRegex(local_ai.Refused, "pip install pocketsphinx"):
            local_ai.Recognizer().hear(b"")

    def test_a_form_keeps_every_byte(self):
        sound = bytes(range(256)) + b"\r\n--other\r\n\r\n--" + b"\r\n"
        body = (b'--a b\r\nContent-Type: audio/wav\r\nContent-Disposition: form-data; '
                b'filename="x.wav"; name="file"\r\n\r\n' + sound + b"\r\n--a b\r\n"
                b'Content-Disposition: form-data; name="model"\r\n\r\n\r\n--a b--\r\nepilogue')
        self.assertEqual(local_ai.form(body, 'multipart/form-data; boundary="a b"; x=y'),
                         {"file": sound, "model": b""})


class Decoder:
    """Stands for pocketsphinx.Decoder, of which there is one at a time."""

    made = []

    def __init__(self, **options):
        self.options, self.grammar, self.steps = options, None, []
        self.made.append(self)

    def add_jsgf_string(self, name, grammar):
        self.grammar = grammar

    def activate_search(self, name):
        self.steps.append("search")

    def start_utt(self):
        self.steps.append("start")

    def process_raw(self, sound, full_utt):
        self.steps.append(len(sound))

    def end_utt(self):
        self.steps.append("end")

    def hyp(self):
        return types.SimpleNamespace(hypstr="good bye") if self.steps.count("start") == 2 else None


class Recognizer(unittest.TestCase):
    def hear(self, grammar):
        """Return (a decoder that was given silence and a sound, what it heard)."""
        Decoder.made.clear()
        with mock.patch.dict("sys.modules", pocketsphinx=types.SimpleNamespace(Decoder=Decoder)):
            recognizer = local_ai.Recognizer(grammar)
            heard = recognizer.hear(b""), recognizer.hear(b"\1\0" * 80)
        decoder, = Decoder.made
        return decoder, heard

    def test_one_decoder_is_made_and_hears_one_utterance_after_the_other(self):
        decoder, heard = self.hear("")
        self.assertEqual(heard, ("", "good bye"))
        self.assertEqual(decoder.steps, ["search", "start", 2, "end", "start", 160, "end"])

    def test_it_knows_the_commands_or_another_grammar_or_all_words(self):
        decoder, _ = self.hear("")
        self.assertIn("= what time is it | tell me a joke | ", decoder.grammar)
        self.assertIsNone(decoder.options["lm"])
        with tempfile.NamedTemporaryFile("w", suffix=".jsgf") as file:
            file.write("#JSGF V1.0; grammar x; public <x> = yes | no;")
            file.flush()
            self.assertIn("yes | no", self.hear(file.name)[0].grammar)
        decoder, _ = self.hear("none")
        self.assertEqual((decoder.grammar, "lm" in decoder.options), (None, False))


class Script(unittest.TestCase):
    def reply(self, *texts):
        roles = ("user", "assistant") * len(texts)
        return local_ai.reply([{"role": role, "content": text}
                               for role, text in zip(roles, texts)])

    def test_every_command_has_its_reply(self):
        for command, text in local_ai.REPLIES.items():
            if text:
                self.assertEqual(self.reply(command), text)
                self.assertEqual(self.reply(f"Hm, {command.title()}!"), text)

    def test_the_last_reply_can_be_repeated(self):
        self.assertEqual(self.reply("good bye", "Bye.", local_ai.REPEAT), "Bye.")
        self.assertEqual(self.reply(local_ai.REPEAT), local_ai.UNKNOWN)

    def test_anything_else_is_not_understood(self):
        for text in ("", "what is love", "tell me"):
            self.assertEqual(self.reply(text), local_ai.UNKNOWN)

    def test_noise_is_faint_and_silence_stays_silence(self):
        loud = prompts.tone(400, 0.1)
        noisy = local_ai.with_noise(loud)
        differences = [abs(int.from_bytes(noisy[at:at + 2], "little", signed=True)
                           - int.from_bytes(loud[at:at + 2], "little", signed=True))
                       for at in range(0, len(loud), 2)]
        self.assertEqual(len(noisy), len(loud))
        self.assertTrue(100 < max(differences) <= 120)
        self.assertEqual(local_ai.with_noise(bytes(320)), bytes(320))
        self.assertEqual(local_ai.with_noise(b""), b"")


if __name__ == "__main__":
    unittest.main()
