"""Real callers must give a password: SIPp and baresip by MD5, linphone by SHA-256 if it can."""

import os
from tempfile import TemporaryDirectory

from tests.interop.support import SERVER_IP, InteropCase, Server, SIPp, end, undisturbed, wait_until
from tests.interop.test_softphones import RATE, dial, dial_with_linphone, speak

LINPHONE_PASSWORD = """
[auth_info_0]
username=listener
passwd=wonderland
realm=sip-rtp-server
"""


def asking_server(path, **settings):
    """Return a Server that lets alice and listener call."""
    passwords = os.path.join(path, "passwords")
    with open(passwords, "w") as file:
        file.write("alice:wonderland\nlistener:wonderland\n")
    return Server(path, SIP_PASSWORD_FILE=passwords, **settings)


class Scenario(InteropCase):
    """SIPp 3.6 supports only MD5, and gives up if the server asks for SHA-256 first."""

    tools = ("sipp",)

    def test_no_and_a_wrong_password_get_401_and_the_right_one_a_call(self):
        for transport in ("u1", "t1"):
            undisturbed(lambda transport=transport: self.run_once(transport))

    def run_once(self, transport):
        with TemporaryDirectory() as path, asking_server(path, SIP_DIGEST="MD5") as server:
            with SIPp(path, "authentication", (SERVER_IP, server.port), 5,
                      options=["-t", transport]) as sipp:
                self.assertEqual(sipp.wait(), 0, sipp.errors())
                repeated = sipp.retransmissions()
            self.assertEqual([call.why for call in server.ended()], ["the caller hung up"] * 5)
            if not repeated:
                self.assertEqual(server.log().count("wrong credentials from"), 5)
            self.assertEqual(server.complaints(), [])
            return None, repeated


class Baresip(InteropCase):
    """baresip 1.0 supports only MD5, and gives up if the server asks for SHA-256 at all."""

    tools = ("baresip", "espeak-ng", "sox")

    def call(self, password, line):
        """Call with a password until the server's log has a line; return the Server."""
        with TemporaryDirectory() as path, asking_server(path, SIP_DIGEST="MD5") as server:
            speak(path, RATE)
            process = dial(path, server.uri, "PCMA/8000/1",
                           f";auth_user=alice;auth_pass={password}")
            try:
                self.assertTrue(wait_until(lambda: line in server.log()), server.log())
            finally:
                end(process)
            self.assertEqual(server.complaints(), [])
            return server.began()

    def test_the_right_password_makes_a_call(self):
        self.assertEqual(self.call("wonderland", "the caller hung up"), ["listener"])

    def test_a_wrong_password_makes_none(self):
        self.assertEqual(self.call("wrong", "wrong credentials from"), [])


class Linphone(InteropCase):
    """linphone 5.1 chooses between both algorithms, or takes SHA-256 alone."""

    tools = ("linphonec", "espeak-ng", "sox")

    def test_the_right_password_makes_a_call(self):
        for digest in ("SHA-256,MD5", "SHA-256"):
            with TemporaryDirectory() as path, asking_server(path, SIP_DIGEST=digest) as server:
                speak(path, RATE)
                process = dial_with_linphone(path, server.uri, more=LINPHONE_PASSWORD)
                try:
                    self.assertTrue(wait_until(server.began), server.log())
                finally:
                    end(process)
                self.assertEqual((server.began(), server.complaints()), (["listener"], []))
