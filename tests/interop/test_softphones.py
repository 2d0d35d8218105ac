"""Softphones call, speak and hear themselves: the file they play against the file they record."""

import array
import glob
import os
import subprocess
import wave
from contextlib import contextmanager
from operator import mul
from tempfile import TemporaryDirectory

from tests.interop.support import (
    LOOPBACK,
    PATIENCE,
    RUNS,
    SERVER_IP,
    InteropCase,
    Server,
    end,
    wait_until,
)

WORDS = "The quick brown fox jumps over the lazy dog."
RATE = 8000  # Hz
PIECE = RATE // 4  # samples that are looked for at once: a quarter of a second
STRIDE = 8  # only every eighth sample is compared
FIRST_LAG, LAST_LAG = -RATE // 5, RATE // 2  # samples; negative if the recording starts late
CLEAR = 0.8  # share of the pieces: on a busy machine a late packet spoils its piece
LOUD = 300  # mean amplitude of a piece worth looking for
BARESIP_CONFIG = """
sip_listen {ip}:0
net_interface {ip}
module_path /usr/lib/baresip/modules
module stdio.so
module g711.so
module g722.so
module aufile.so
module aubridge.so
module sndfile.so
module_app account.so
module_app menu.so
audio_source aufile,{path}/speech.wav
audio_player aubridge,nowhere
audio_alert aubridge,nowhere
snd_path {path}
"""  # no player writes to a file; the module sndfile records the input of the player
BARESIP_ACCOUNTS = "<sip:listener@{ip}>;regint=0;audio_codecs={codec}{more}\n"
LINPHONE_CONFIG = """
[sip]
sip_port={udp_port}
sip_tcp_port={tcp_port}
sip_tls_port=0
bind_address={ip}
contact=sip:listener@{ip}
[rtp]
audio_rtp_port=-1
bind_address={ip}
"""
LINPHONE_COMMANDS = """ipv6 disable
soundcard use files
play {path}/speech.wav
record {path}/recording.wav
call {uri}
"""


class EchoHeard:
    """One call from a softphone to the echo; each test of the class checks one thing.

    Where much of it was not heard the machine may have been busy, and another is made.
    """

    settings, rate = {}, RATE

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for _ in range(RUNS):
            cls.make_call()
            if cls.all_came() and cls.clear() >= CLEAR * len(cls.heard):
                break

    @staticmethod
    @contextmanager
    def hosts():
        """Yield the Host of the phone and that of the server."""
        yield LOOPBACK, LOOPBACK

    @classmethod
    def make_call(cls):
        with TemporaryDirectory() as path, cls.hosts() as (phone, host), \
                Server(path, host, **cls.settings) as server:
            speak(path, cls.rate)
            try:
                cls.call(path, phone, server)
            except AssertionError as error:
                with open(os.path.join(path, "screen.txt"), errors="replace") as screen:
                    raise AssertionError(f"{error}: {screen.read()[-3000:]}") from None
            cls.ended, cls.complaints = server.ended(), server.complaints()
            cls.speech = read(os.path.join(path, "speech.wav"))
            cls.recording = read(cls.recorded(path))
        cls.heard = [cls.find(cls.speech[at:at + PIECE:STRIDE], at)
                     for at in range(0, len(cls.speech), PIECE)
                     if sum(map(abs, cls.speech[at:at + PIECE])) > LOUD * PIECE]

    @classmethod
    def all_came(cls):
        return len(cls.recording) > len(cls.speech) - RATE // 2

    @classmethod
    def clear(cls):
        """Return how many pieces can be recognized."""
        return sum(likeness > 0.9 for likeness, _ in cls.heard)

    def test_caller_hears_what_it_said(self):
        self.assertGreater(len(self.heard), 7)
        self.assertGreaterEqual(self.clear(), CLEAR * len(self.heard), self.heard)

    def test_the_echo_is_as_long_as_the_speech(self):
        self.assertTrue(self.all_came(), len(self.recording) - len(self.speech))

    def test_caller_ends_the_call(self):
        self.assertEqual([call.why for call in self.ended], ["the caller hung up"])

    def test_nothing_worse_than_info_is_logged(self):
        self.assertEqual(self.complaints, [])

    @classmethod
    def find(cls, piece, at):
        """Return (likeness, lag) of the most similar part of the recording, near `at`."""
        return max((likeness(piece, cls.recording[at + lag:at + lag + PIECE:STRIDE]), lag)
                   for lag in range(max(FIRST_LAG, -at), LAST_LAG))


class Baresip(EchoHeard, InteropCase):
    """It offers PCMA alone, and hangs up when its file is over."""

    tools = ("baresip", "espeak-ng", "sox")
    transport, codec = "udp", "PCMA/8000/1"

    @classmethod
    def call(cls, path, phone, server):
        process = dial(path, f"{server.uri};transport={cls.transport}", cls.codec, phone=phone)
        try:
            if not wait_until(server.ended):
                raise AssertionError("baresip did not call and hang up")
        finally:
            end(process)

    @classmethod
    def recorded(cls, path):
        return glob.glob(os.path.join(path, "dump-*-dec.wav"))[0]


class BaresipOverTCP(Baresip):
    """The same over TCP."""

    transport = "tcp"


class BaresipToABot(Baresip):
    """The same, with a bot that plays the audio back: decoded, buffered, encoded."""

    settings = {"BOT": "bot:echo"}


class BaresipToABotOverG722(Baresip):
    """The same, in G.722 at 16000 Hz from end to end."""

    codec, rate = "G722/16000/1", 16000
    settings = {"BOT": "tests.interop.bots:echo_wide", "CODECS": "PCMA,G722"}


class Transferred(InteropCase):
    """A bot transfers baresip, which calls the target, reports it and gets our BYE."""

    tools = ("baresip", "espeak-ng", "sox")

    def test_the_caller_talks_to_the_target_and_the_bots_call_is_over(self):
        with TemporaryDirectory() as path, Server(path, BOT="tests.interop.bots:answer") as server:
            speak(path, RATE)
            process = dial(path, f"sip:transfer@{SERVER_IP}:{server.port}", "PCMA/8000/1")
            try:
                self.assertTrue(wait_until(lambda: len(server.ended()) == 2), server.log())
            finally:
                end(process)
            self.assertEqual([call.why for call in server.ended()],
                             ["transferred", "the caller hung up"])
            self.assertEqual(server.complaints(), [])


class Linphone(EchoHeard, InteropCase):
    """It offers every codec it has; the server supports few of them."""

    tools = ("linphonec", "espeak-ng", "sox")
    transport = "udp"

    @classmethod
    def call(cls, path, phone, server):
        enough = os.path.getsize(os.path.join(path, "speech.wav")) + RATE
        process = dial_with_linphone(path, server.uri, cls.transport, phone)
        try:
            if not wait_until(lambda: size(cls.recorded(path)) > enough):
                raise AssertionError("linphonec did not call and record")
            tell(process, "terminate\nquit\n")
            if not wait_until(server.ended):
                raise AssertionError("linphonec did not hang up")
            process.wait(PATIENCE)  # it finishes the recording
        finally:
            end(process)

    @classmethod
    def recorded(cls, path):
        return os.path.join(path, "recording.wav")


class LinphoneOverTCP(Linphone):
    """The same over TCP."""

    transport = "tcp"


def dial(path, uri, codec, more="", phone=LOOPBACK):
    """Start baresip, which calls a URI, plays speech.wav and hangs up; more: account parameters."""
    for name, text in (("config", BARESIP_CONFIG), ("accounts", BARESIP_ACCOUNTS)):
        with open(os.path.join(path, name), "w") as file:
            file.write(text.format(ip=phone.ip, path=path, codec=codec, more=more))
    return start(path, [*phone.enter, "baresip", "-f", path, "-e", f"/dial {uri}"])


def dial_with_linphone(path, uri, transport="udp", phone=LOOPBACK, more=""):
    """Start linphonec, which calls a URI, plays speech.wav and records; more: configuration."""
    ports = {f"{name}_port": -1 if name == transport else 0 for name in ("udp", "tcp")}
    with open(os.path.join(path, "linphonerc"), "w") as file:
        file.write(LINPHONE_CONFIG.format(ip=phone.ip, **ports) + more)  # 0 is none, -1 any
    process = start(path, [*phone.enter, "linphonec", "-c", "linphonerc"])
    tell(process, LINPHONE_COMMANDS.format(path=path, uri=f"{uri};transport={transport}"))
    return process


def start(path, command):
    """Start a softphone with path as its home directory."""
    with open(os.path.join(path, "screen.txt"), "wb") as screen:
        return subprocess.Popen(command, cwd=path, env=dict(os.environ, HOME=path), stdout=screen,
                                stdin=subprocess.PIPE, stderr=subprocess.STDOUT)


def tell(phone, commands):
    """Write commands to the standard input of a softphone."""
    phone.stdin.write(commands.encode())
    phone.stdin.flush()


def speak(path, rate, repeats=0):
    """Write speech.wav, with a second of silence after the words, and again for each repeat."""
    for command in (["espeak-ng", "-w", "words.wav", WORDS],
                    ["sox", "words.wav", "-r", str(rate), "-c", "1", "-b", "16", "speech.wav",
                     "pad", "0", "1", "repeat", str(repeats)]):
        subprocess.run(command, cwd=path, check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)


def size(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def read(path):
    """Return the samples of a WAV file, at RATE."""
    with wave.open(path) as file:
        samples = array.array("h", file.readframes(file.getnframes()))
        return samples[::file.getframerate() // RATE]


def likeness(said, heard):
    """Return the correlation of two pieces of audio: 1 if they differ only in volume."""
    power = sum(map(mul, said, said)) * sum(map(mul, heard, heard))
    return sum(map(mul, said, heard)) / power ** 0.5 if power else 0.0
