"""What Docker would run, without Docker: the files, user and environment the Dockerfile names.

The root is read-only and there is no capability, as with `docker run --read-only --cap-drop ALL`.
Needs root, for a mount namespace.
"""

import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from tests.interop.support import PATIENCE, ROOT, InteropCase
from tests.test_main import Caller

PYTHON = "/usr/bin/python3"  # every user may read this one
LISTENING = re.compile(r"listening on UDP and TCP 0\.0\.0\.0:(\d+)")
# remounted in a namespace of its own, so that no other process sees it
READ_ONLY = ('mount -o remount,bind,ro / && cd "$1" && shift && exec setpriv --reuid "$1" '
             '--regid "$2" --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs -- '
             '"${@:3}"')


@unittest.skipUnless(hasattr(os, "geteuid") and os.geteuid() == 0, "needs root")
@unittest.skipUnless(os.path.exists(PYTHON), f"needs {PYTHON}")
@unittest.skipUnless(shutil.which("unshare") and shutil.which("setpriv"), "needs util-linux")
class Container(InteropCase):
    def setUp(self):
        if subprocess.call(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL):
            self.skipTest("no mount namespace can be had")
        dockerfile = (pathlib.Path(ROOT) / "Dockerfile").read_text()
        self.user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.M).groups()
        self.env = dict(pair.split("=") for pair in
                        re.search(r"^ENV (.*)$", dockerfile, re.M).group(1).split())
        self.command = json.loads(re.search(r"^ENTRYPOINT (.*)$", dockerfile, re.M).group(1))
        for line in ("COPY *.py ./", "COPY siprtp siprtp/", "COPY examples examples/"):
            self.assertIn(line, dockerfile)
        self.app = tempfile.mkdtemp(dir="/")  # on the root file system, as in an image
        self.addCleanup(shutil.rmtree, self.app)
        os.chmod(self.app, 0o755)
        for path in glob.glob(os.path.join(ROOT, "*.py")):
            shutil.copy(path, self.app)
        for folder in ("siprtp", "examples"):
            shutil.copytree(os.path.join(ROOT, folder), os.path.join(self.app, folder))

    def start(self, *command, **environ):
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", READ_ONLY, "bash",
             self.app, *self.user, PYTHON, *command],
            env={**self.env, "PATH": os.environ["PATH"], **environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)

    def run_there(self, *command, **environ):
        process = self.start(*command, **environ)
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def serve(self, **environ):
        """Start the server of the image; return (process, its SIP port)."""
        # the RTP ports of the image may be in use on this machine
        server = self.start(*self.command[1:], SIP_PORT="0", RTP_PORT_START="30000",
                            RTP_PORT_END="30198", **environ)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.kill)
        line = server.stdout.readline()
        while not LISTENING.search(line):
            self.assertTrue(line, "it ended")
            line = server.stdout.readline()
        return server, LISTENING.search(line).group(1)

    def call_and_stop(self, server, port):
        """Call the server, hang up, and stop it; return the rest of its log."""
        caller = Caller(self, int(port))
        to = caller.call().header("To")
        caller.send("BYE", 2, to)
        caller.receive(200)
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(PATIENCE), 0)
        return server.stdout.read()

    def test_the_image_has_the_example_bots(self):
        said = self.call_and_stop(*self.serve(BOT="examples.parrot:answer"))
        self.assertIn("ended after", said)
        self.assertNotIn("Traceback", said)

    def test_a_call_by_a_user_without_rights_on_a_read_only_root(self):
        code, said = self.run_there("-c", "import os; print(os.getuid(), open('/proc/self/status')"
                                    ".read()); open('here', 'w')")
        self.assertIn(f"{self.user[0]} Name:", said)
        self.assertRegex(said, r"CapEff:\s+0+\n")
        self.assertRegex(said, r"CapBnd:\s+0+\n")
        self.assertEqual(code, 1)
        self.assertIn("Read-only file system", said)

        server, port = self.serve()
        self.assertEqual(self.run_there("server.py", "--ping", SIP_PORT=port)[0], 0)
        self.assertIn("stopped", self.call_and_stop(server, port))


if __name__ == "__main__":
    unittest.main()
