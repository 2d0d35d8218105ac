"""Phones behind a NAT: their calls, the server's hang-up, a change of network in mid-call."""

import array
import glob
import os
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Iterator, NamedTuple

from tests.interop import test_softphones
from tests.interop.network import NETS, ROUTERS, Network
from tests.interop.support import InteropCase, Server, SIPp, end, wait_until
from tests.interop.test_softphones import LOUD, PIECE, RATE, dial, dial_with_linphone, speak, tell

NAT_TOOLS = ("ip", "nft")
SETTINGS = {"ALLOWED_PEERS": NETS, "BOT": "tests.interop.bots:answer", "LOG_LEVEL": "debug"}
WAV_HEADER = 44  # bytes
SOON = 5  # seconds: a lost BYE is known to be lost only after 32
ANSWERED = "BYE answered with 200"
MOVED = "moved from {} to {}".format(ROUTERS["wifi"][1], ROUTERS["lte"][1])
TRANSPORTS = {"udp": "u1", "tcp": "t1"}  # of SIPp


class BehindNAT:
    """The phone is behind a NAT, the server at a public address."""

    settings = {"ALLOWED_PEERS": NETS}

    @staticmethod
    @contextmanager
    def hosts():
        with Network() as network:
            yield network.phone, network.server


class BaresipToTheEcho(BehindNAT, test_softphones.Baresip):
    """baresip calls over UDP and hangs up."""

    tools = test_softphones.Baresip.tools + NAT_TOOLS


class LinphoneToTheEcho(BehindNAT, test_softphones.Linphone):
    """linphonec calls over UDP and hangs up."""

    tools = test_softphones.Linphone.tools + NAT_TOOLS


class Call(NamedTuple):
    """A call of a softphone that has begun. phone: its process; path: of its files."""

    network: Network
    server: Server
    phone: Any
    path: str

    def screen(self):
        with open(os.path.join(self.path, "screen.txt"), errors="replace") as screen:
            return screen.read()

    def size(self):
        """Return how many samples the phone has recorded of what it hears."""
        return len(self._recording())

    def loud(self, at=0):
        """Return the seconds of sound in the recording after the first `at` samples."""
        samples = self._recording()
        return sum(sum(map(abs, samples[piece:piece + PIECE])) > LOUD * PIECE
                   for piece in range(at, len(samples) - PIECE + 1, PIECE)) * PIECE / RATE

    def _recording(self):
        names = [name for pattern in ("recording.wav", "dump-*-dec.wav")  # linphone's, baresip's
                 for name in glob.glob(os.path.join(self.path, pattern))]
        if not names:
            return array.array("h")
        with open(names[0], "rb") as file:  # its header is not complete yet
            data = file.read()[WAV_HEADER:]
        return array.array("h", data[:len(data) // 2 * 2])


class Softphone:
    """What the server does to a call that a softphone behind a NAT has begun."""

    over = ""  # what it says on the screen at the end of a call

    @contextmanager
    def call(self, user, transport="udp") -> Iterator[Call]:
        """Call a bot of the server; yield the Call once it has begun."""
        with TemporaryDirectory() as path, Network() as network, \
                Server(path, network.server, **SETTINGS) as server:
            speak(path, RATE, repeats=3)
            phone = self.dial(path, server.uri.replace("echo", user), transport, network.phone)
            try:
                call = Call(network, server, phone, path)
                self.assertTrue(wait_until(server.began), f"{call.screen()}{server.log()}")
                yield call
            finally:
                end(phone)

    def assert_hung_up(self, call, why):
        """Wait until the server ends the call; the phone must learn of it at once."""
        self.assertTrue(wait_until(call.server.ended), call.server.log())
        self.assertTrue(wait_until(lambda: self.over in call.screen(), SOON),
                        f"{call.screen()}{call.server.log()}")
        self.assertEqual([ended.why for ended in call.server.ended()], [why])
        self.assertTrue(wait_until(lambda: ANSWERED in call.server.log(), SOON), call.server.log())

    def move(self, call):
        """Change the network once the echo is heard."""
        self.assertTrue(wait_until(lambda: call.loud() > 0.5), call.server.log())
        call.network.move("lte")

    def test_a_bots_tone_and_hang_up_arrive_over_udp(self):
        with self.call("tone") as call:
            self.assert_hung_up(call, "its bot returned")
            self.assertTrue(wait_until(lambda: call.loud() > 0.5, SOON), call.server.log())

    def test_a_bots_tone_and_hang_up_arrive_over_tcp(self):
        with self.call("tone", "tcp") as call:
            self.assert_hung_up(call, "its bot returned")
            self.assertTrue(wait_until(lambda: call.loud() > 0.5, SOON), call.server.log())

    def test_echo_and_hang_up_follow_the_phone_to_another_network(self):
        with self.call("echo") as call:
            self.move(call)
            self.reinvite(call)
            self.assertIn(MOVED, call.server.log())
            at = call.size()
            self.assertTrue(wait_until(lambda: call.loud(at) > 1), call.server.log())
            end(call.server.process)
            self.assert_hung_up(call, "the server stops")


class Baresip(Softphone, InteropCase):
    tools = test_softphones.Baresip.tools + NAT_TOOLS
    over = " terminated (duration: "

    def dial(self, path, uri, transport, host):
        return dial(path, f"{uri};transport={transport}", "PCMA/8000/1", phone=host)

    def reinvite(self, call):
        tell(call.phone, "I")  # its key for a re-INVITE
        self.assertTrue(wait_until(lambda: "moved from" in call.server.log()), call.screen())


class Linphone(Softphone, InteropCase):
    tools = test_softphones.Linphone.tools + NAT_TOOLS
    over = " ended ("

    def dial(self, path, uri, transport, host):
        return dial_with_linphone(path, uri, transport, host)

    def reinvite(self, call):
        tell(call.phone, "pause\n")
        self.assertTrue(wait_until(lambda: "is now paused" in call.screen()), call.server.log())
        tell(call.phone, "resume\n")
        self.assertTrue(wait_until(lambda: ": resumed" in call.server.log()), call.screen())

    def test_a_phone_that_moved_hangs_up_over_a_new_tcp_connection(self):
        with self.call("echo", "tcp") as call:
            self.move(call)
            tell(call.phone, "pause\n")  # the new router does not know the old connection
            self.assertTrue(wait_until(lambda: "Connection reset by peer" in call.screen()))
            tell(call.phone, "terminate\n")
            self.assertTrue(wait_until(call.server.ended), call.screen())
            self.assertEqual([ended.why for ended in call.server.ended()], ["the caller hung up"])
            self.assertIn(MOVED, call.server.log())


class UnspecifiedContact(InteropCase):
    """A phone whose Contact is 0.0.0.0; the scenario fails without our BYE."""

    tools = ("sipp",) + NAT_TOOLS

    def assert_bye_arrives(self, transport):
        with TemporaryDirectory() as path, Network() as network, \
                Server(path, network.server, **SETTINGS) as server, \
                SIPp(path, "contact_unspecified", server.address,
                     options=("-t", TRANSPORTS[transport]), host=network.phone) as sipp:
            self.assertEqual(sipp.wait(), 0, f"{sipp.errors()}{server.log()}")
            self.assertEqual([call.why for call in server.ended()], ["its bot returned"])
            self.assertTrue(wait_until(lambda: ANSWERED in server.log(), SOON), server.log())

    def test_our_bye_arrives_over_udp(self):
        self.assert_bye_arrives("udp")

    def test_our_bye_arrives_over_tcp(self):
        self.assert_bye_arrives("tcp")
