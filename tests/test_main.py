"""`python server.py` as a user runs it: a process of its own on the loopback."""

import os
import pathlib
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import bot
from server import SIPServer
from sip_message import SIPMessage
from siprtp.config import Config
from siprtp.process import raise_file_limit

ROOT = pathlib.Path(__file__).parent.parent
SECONDS = 20  # at most, for any step


class Process:
    """A running server.py; a test can wait for its log lines."""

    def __init__(self, test, **environ):
        self.process = start(environ)
        self.lines = queue.Queue()
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        test.addCleanup(self.process.stderr.close)
        test.addCleanup(reader.join, SECONDS)
        test.addCleanup(self.process.wait, SECONDS)
        test.addCleanup(self.process.kill)
        self.port = int(self.wait_for(r"listening on UDP and TCP \S+:(\d+);").group(1))

    def _read(self):
        for line in self.process.stderr:
            self.lines.put(line)

    def wait_for(self, pattern):
        while True:
            match = re.search(pattern, self.lines.get(timeout=SECONDS))
            if match:
                return match


def start(environ, *arguments):
    env = {name: value for name, value in os.environ.items() if name == "PATH"}
    env.update({"SIP_PORT": "0"}, **environ)
    return subprocess.Popen([sys.executable, str(ROOT / "server.py"), *arguments], env=env,
                            stdout=subprocess.PIPE if arguments else subprocess.DEVNULL,
                            stderr=subprocess.PIPE, universal_newlines=True)


def run(*arguments, **environ):
    process = start(environ, *arguments)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


class Caller:
    """A softphone in a few lines: one socket, one call."""

    def __init__(self, test, port):
        self.server = "127.0.0.1", port
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(SECONDS)
        test.addCleanup(self.sock.close)
        self.here = "{}:{}".format(*self.sock.getsockname())

    def request(self, method, cseq, to="<sip:echo@127.0.0.1>", body=""):
        return (
            f"{method} sip:echo@127.0.0.1 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.here};branch=z9hG4bK{method}{cseq}\r\n"
            f"From: <sip:4711@{self.here}>;tag=t\r\nTo: {to}\r\nCall-ID: {self.here}\r\n"
            f"CSeq: {cseq} {method}\r\nContact: <sip:4711@{self.here}>\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()

    def send(self, *args, **parts):
        self.sock.sendto(self.request(*args, **parts), self.server)

    def receive(self, wanted):
        """Return the first message with the wanted status or method."""
        while True:
            message = SIPMessage(self.sock.recv(65535))
            if wanted in (message.status, message.is_request() and message.method()):
                return message

    def call(self):
        port = self.here.split(":")[1]
        self.send("INVITE", 1, body=f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\n"
                  f"c=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\n")
        ok = self.receive(200)
        self.send("ACK", 1, ok.header("To"))
        return ok

    def answer(self, request):
        copied = "".join(f"{name}: {request.header(name)}\r\n"
                         for name in ("Via", "From", "To", "Call-ID", "CSeq"))
        self.sock.sendto(f"SIP/2.0 200 OK\r\n{copied}\r\n".encode(), self.server)


def unhurried(call):
    """Be the echo of a server that takes its time to stop."""
    sys.modules["__main__"].STOP_SECONDS = 10 * SECONDS
    bot.echo(call)


class Files(unittest.TestCase):
    def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[1]), limits[1]))
            with self.assertLogs("siprtp.process", "INFO") as logged:
                raise_file_limit()
            self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE)[0], limits[1])
            self.assertIn(f"up to {limits[1]} open files", logged.output[0])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Settings(unittest.TestCase):
    def test_help_prints_every_setting(self):
        code, out, _ = run("--help")
        self.assertEqual(code, 0)
        for name in ("BIND_IP", "ADVERTISED_IP", "SIP_PORT", "RTP_PORT_START", "RTP_PORT_END",
                     "MAX_CALLS", "RTP_TIMEOUT", "DRAIN_SECONDS", "LOG_LEVEL", "--ping"):
            self.assertIn(name, out)

    def test_a_bad_value_is_one_line_that_names_it_and_status_2(self):
        code, _, err = run(SIP_PORT="sip")
        self.assertEqual((code, err.count("\n")), (2, 1))
        self.assertIn("SIP_PORT", err)

    def test_a_port_in_use_is_one_line_that_names_it_and_status_1(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            code, _, err = run(SIP_PORT=str(taken.getsockname()[1]))
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertIn("SIP_PORT", err)

    def test_an_address_that_is_not_ours_is_one_line_and_status_1(self):
        code, _, err = run(BIND_IP="192.0.2.1")
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertIn("BIND_IP", err)


class Ping(unittest.TestCase):
    def test_it_is_0_while_the_server_serves_and_1_without(self):
        server = Process(self)
        self.assertEqual(run("--ping", SIP_PORT=str(server.port))[0], 0)
        server.process.terminate()
        server.process.wait(SECONDS)
        code, _, err = run("--ping", SIP_PORT=str(server.port))
        self.assertEqual((code, err.count("\n")), (1, 1))

    def test_it_works_even_if_the_server_itself_is_not_an_allowed_peer(self):
        server = Process(self, ALLOWED_PEERS="198.51.100.7")
        self.assertEqual(run("--ping", SIP_PORT=str(server.port))[0], 0)


class Marked(unittest.TestCase):
    def test_sip_packets_are_marked_class_selector_3(self):
        server = SIPServer(Config.from_env({"SIP_PORT": "0"}))
        server.open()
        marked = server.sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
        server.stop()
        server.serve_forever()  # ends at once, and closes the socket
        self.assertEqual((marked, server.sock.fileno()), (0x60, -1))


class Running(unittest.TestCase):
    def test_a_bot_may_be_any_callable(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "partial_bot.py"), "w") as file:
                file.write("import functools\nanswer = functools.partial(lambda call, x: 0, x=1)\n")
            Process(self, BOT="partial_bot:answer", PYTHONPATH=folder)  # waits until it listens

    def test_a_call_is_logged_when_it_begins_and_when_it_ends(self):
        server = Process(self)
        caller = Caller(self, server.port)
        ok = caller.call()
        server.wait_for(rf"call from '4711' to 'echo' began: .*, Call-ID '{caller.here}'$")
        caller.send("BYE", 2, ok.header("To"))
        caller.receive(200)
        server.wait_for(r"call from '4711' to 'echo' ended after [\d.]+ s: the caller hung up; "
                        rf"RTP packets 0 in, 0 out, .*; Call-ID '{caller.here}'$")

    def test_debug_shows_the_messages_escaped(self):
        server = Process(self, LOG_LEVEL="debug")
        caller = Caller(self, server.port)
        caller.sock.sendto(b"\x1b[31mevil\r\nfake: line", caller.server)
        server.wait_for(r"from 127\.0\.0\.1:\d+ b'\\x1b\[31mevil\\r\\nfake: line'")

    def test_a_stop_sends_bye_waits_for_the_answer_and_exits_0(self):
        for number, seconds in ((signal.SIGINT, "60"), (signal.SIGTERM, "0")):
            server = Process(self, DRAIN_SECONDS=seconds)
            caller = Caller(self, server.port)
            caller.call()
            server.wait_for("began")
            server.process.send_signal(number)
            caller.answer(caller.receive("BYE"))
            self.assertEqual(server.process.wait(SECONDS), 0)

    def test_a_caller_that_never_answers_the_bye_does_not_hold_the_exit(self):
        server = Process(self)
        Caller(self, server.port).call()
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(server.process.wait(SECONDS), 0)

    def test_a_second_ctrl_c_exits_at_once(self):
        server = Process(self, BOT="tests.test_main:unhurried")
        caller = Caller(self, server.port)
        caller.call()
        server.process.send_signal(signal.SIGINT)
        server.wait_for("stopping")
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(server.process.wait(SECONDS), 1)

    @unittest.skipUnless(os.path.isdir("/proc/self/task"), "needs /proc, as on Linux")
    def test_a_signal_that_another_thread_gets_does_not_wait_for_a_packet(self):
        # like a signal just before the loop sleeps, it interrupts no system call
        server = Process(self)
        threads = [int(number) for number in os.listdir(f"/proc/{server.process.pid}/task")]
        self.assertGreater(len(threads), 1)
        os.kill(max(threads), signal.SIGTERM)
        self.assertEqual(server.process.wait(SECONDS), 0)


if __name__ == "__main__":
    unittest.main()
