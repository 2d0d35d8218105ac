"""What the documentation prints runs as it is printed."""

import contextlib
import pathlib
import re
import threading
import unittest

import bot
from siprtp.testing import FakeCall

ROOT = pathlib.Path(__file__).parent.parent
RECIPE = re.compile(r"```python\n# recipe: ([a-z ]+)\n(.*?)```", re.DOTALL)
PCM = b"\1\0" * 800


def recipes():
    """Return {name: its code} of docs/bot.md."""
    return dict(RECIPE.findall((ROOT / "docs" / "bot.md").read_text(encoding="utf-8")))


class Recipes(unittest.TestCase):
    def load(self, name):
        """Run a recipe's code; return its answer."""
        names = {}
        exec(compile(recipes()[name], name, "exec"), names)
        return names["answer"]

    def test_the_fake_call_tests_a_bot(self):
        self.load("test")

    def test_the_work_after_the_call_is_done(self):
        with self.assertLogs("bot.call", "INFO") as logged:
            FakeCall([PCM]).run(self.load("after the call"))
        self.assertIn("recorded /tmp/call.wav", logged.output[0])

    def test_bots_by_called_number(self):
        answer = self.load("numbers")
        self.assertIsNone(FakeCall(called="1000").run(answer).rejected)
        self.assertEqual(FakeCall(called="3000").run(answer).rejected, 404)

    def test_music_on_hold(self):
        call = FakeCall().run(self.load("music"))
        self.assertEqual((len(call.said), call.said[-1]), (2, b"\0\0" * 800))

    def test_two_callers_are_joined(self):
        class Caller(FakeCall):
            def frames(self):
                return iter([self.name.encode()])

        answer, calls = self.load("join"), [Caller(name="one"), Caller(name="other")]
        threads = [threading.Thread(target=call.run, args=(answer,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            self.assertFalse(thread.is_alive())
        self.assertEqual([call.said[-1] for call in calls], [b"other", b"one"])

    def test_a_blocking_client_that_fails_is_logged(self):
        with self.assertLogs("bot.call", "WARNING") as logged:
            FakeCall([PCM]).run(self.load("blocking client"))
        self.assertIn("no speech", logged.output[0])

    def test_an_asyncio_client(self):
        self.assertEqual(FakeCall([PCM, PCM]).run(self.load("asyncio client")).said, [PCM, PCM])

    def test_every_name_of_a_call_is_documented(self):
        text = (ROOT / "docs" / "bot.md").read_text(encoding="utf-8")
        for name in dir(bot.Call):
            if not name.startswith("_"):
                self.assertRegex(text, rf"`(call\.)?{name}\b|`\.{name}\b", name)

    def test_the_example_of_the_first_page_loads(self):
        code = (ROOT / "docs" / "bot.md").read_text(encoding="utf-8")
        first = re.search(r"```python\n(# my_bot.py.*?)```", code, re.DOTALL).group(1)
        names = {}
        with contextlib.suppress(FileNotFoundError):  # there is no hello.wav
            exec(compile(first, "my_bot", "exec"), names)
        compile(first, "my_bot", "exec")


if __name__ == "__main__":
    unittest.main()
