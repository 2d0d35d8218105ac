"""A user's own files never disturb the server, nor the server them."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parent.parent
HOSTILE = ("config.py", "codec.py", "net.py", "calls.py", "gate.py", "utils.py", "logs.py",
           "sockets.py", "dtmf.py", "recorder.py", "session.py", "media/__init__.py",
           "media/codec.py", "ai/__init__.py", "sip/__init__.py", "any_bot.py")
BOT = """
import ai, calls, codec, config, media.codec, net, sockets, utils
from bot import CallEnded, wav
assert {config.MINE, codec.MINE, net.MINE, calls.MINE, media.MINE, ai.MINE, utils.MINE} == {"mine"}

def answer(call):
    call.answer()
"""
OWN_PROGRAM = """
import server
from my_bot import answer

server.main(answer)
"""


def run(folder, *command, **environ):
    """Run Python in a folder; return (exit status, output)."""
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environ}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, timeout=120,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    return done.returncode, done.stdout


class UserFiles(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def write_hostile_files(self, folder):
        for name in HOSTILE:
            path = pathlib.Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text('MINE = "mine"\n')

    def test_a_bot_imports_its_own_files_of_any_name(self):
        self.write_hostile_files(self.folder)
        (pathlib.Path(self.folder) / "my_bot.py").write_text(BOT)
        # the settings, and so the bot, are read before the ping, which gets no answer
        code, said = run(self.folder, str(ROOT / "server.py"), "--ping", BOT="my_bot:answer",
                         SIP_PORT="1")
        self.assertEqual(code, 1, said)
        self.assertNotIn("BOT=", said)

    def test_a_program_of_the_users_own_does_so_too(self):
        self.write_hostile_files(self.folder)
        (pathlib.Path(self.folder) / "my_bot.py").write_text(BOT)
        (pathlib.Path(self.folder) / "program.py").write_text(OWN_PROGRAM)
        code, said = run(self.folder, "program.py", PYTHONPATH=str(ROOT), BIND_IP="192.0.2.1")
        self.assertEqual(code, 1, said)  # this machine does not have the address
        self.assertIn("BIND_IP=192.0.2.1", said)

    def test_the_tests_pass_with_them_in_the_working_directory(self):
        copy = pathlib.Path(self.folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.wav"))
        self.write_hostile_files(copy)
        code, said = run(copy, "-m", "unittest", "-q", "tests.test_architecture",
                         "tests.test_config", "tests.test_calls", "tests.test_bot",
                         "tests.test_codec", "tests.test_main", INTEROP="0")
        self.assertEqual(code, 0, said)

    def test_a_file_of_tests_runs_by_its_path(self):
        code, said = run(ROOT, "-m", "unittest", "-q", "tests/test_sip_message.py")
        self.assertEqual(code, 0, said)


if __name__ == "__main__":
    unittest.main()
