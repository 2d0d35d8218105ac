"""What the interop tests share: the tools they need, the server as a process, and a run of SIPp.

Linux only: threads and open files are counted in /proc, and all of 127.0.0.0/8 is there.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import unittest
from typing import NamedTuple, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SERVER_IP, SIPP_IP, RELAY_IP = "127.0.0.1", "127.0.0.2", "127.0.0.3"
PACKAGES = {"sipp": "sip-tester", "baresip": "baresip-core", "sox": "sox",
            "espeak-ng": "espeak-ng", "linphonec": "linphone-cli",
            "kamailio": "kamailio", "ip": "iproute2",
            "nft": "nftables"}  # program: its Debian package
# where users other than root find a daemon, too
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
PATIENCE = 30  # seconds for steps that take none: a busy machine may pause for some
ABORTED = -6  # exit code of SIPp if a 200 is repeated after the end of its transaction
RUNS = 3  # attempts, of which one must run without a pause of the machine
LISTENING = re.compile(r"listening on UDP and TCP [\d.]+:(\d+)")
BEGAN = re.compile(r"call from '(.*)' to '.*' began")
ENDED = re.compile(r"call from '(.*)' to '.*' ended after [\d.]+ s: (.*); "
                   r"RTP packets (\d+) in, (\d+) out")


class InteropCase(unittest.TestCase):
    """A test case that needs programs; without them it is skipped, or fails where CI is set."""

    tools = ()

    @classmethod
    def setUpClass(cls):
        if os.environ.get("INTEROP") == "0":
            raise unittest.SkipTest("INTEROP=0")
        if not os.path.isdir("/proc/self/task"):
            raise unittest.SkipTest("there is no /proc as on Linux")
        for tool in cls.tools:
            if shutil.which(tool, path=PATH) is None:
                skip(f"{tool} is not installed (Debian: {PACKAGES[tool]})")

    def enter(self, context):
        """Enter a context until the test ends; return its value."""
        value = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return value


def skip(message):
    """Skip a test that lacks something. CI must not lack it, so there the test fails."""
    if os.environ.get("CI") == "true":
        raise AssertionError(message)
    raise unittest.SkipTest(message)


def wait_until(condition, seconds=PATIENCE):
    """Poll condition() until it holds; return whether it did within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def undisturbed(run):
    """Return the result of run(), which returns (result, signs of delay), once there are none.

    A machine that stands still for T1, 0.5 s, makes somebody repeat a message: then it is run
    again. A server that is late, or repeats what was answered, does so each time.
    """
    for _ in range(RUNS):
        result, signs = run()
        if not signs:
            return result
    raise AssertionError(f"as in each of {RUNS} runs: {signs}")


class Background:
    """Runs `_run` in a thread while its `with` lasts: until `_stopping`; then calls `_close`."""

    def __init__(self):
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stopping.set()
        self._thread.join()
        self._close()


def end(process, seconds=PATIENCE):
    """Send SIGTERM to a process of ours and return its exit code; kill it if it stays."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(seconds)
    finally:
        if process.stdin:
            process.stdin.close()


class Ended(NamedTuple):
    """What the server logs at the end of a call."""

    caller: str
    why: str
    packets_in: int
    packets_out: int


class Usage(NamedTuple):
    """The threads and open files of a process."""

    threads: int
    files: int


class Host(NamedTuple):
    """Where a program runs. enter: what its command line begins with there."""

    ip: str
    enter: Tuple[str, ...] = ()


LOOPBACK, SIPP_HOST = Host(SERVER_IP), Host(SIPP_IP)


class Server:
    """`python server.py` on a free port. As a context manager it must end with exit code 0.

    settings: of the environment, beside those that are set here.
    """

    def __init__(self, path, host=LOOPBACK, **settings):
        self._log = os.path.join(path, "server.log")
        env = {**os.environ, "BIND_IP": host.ip, "SIP_PORT": "0", "LOG_LEVEL": "info",
               "DRAIN_SECONDS": "0", **settings}
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen([*host.enter, sys.executable, "server.py"], cwd=ROOT,
                                            env=env, stdin=subprocess.DEVNULL, stderr=log)
        if not wait_until(lambda: LISTENING.search(self.log())):
            end(self.process)
            raise AssertionError(f"the server did not start: {self.log()}")
        self.port = int(LISTENING.search(self.log()).group(1))
        self.address = host.ip, self.port
        self.uri = "sip:echo@{}:{}".format(*self.address)
        self.idle = self.usage()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        code = end(self.process)
        if kind is None and code != 0:
            raise AssertionError(f"the server ended with {code}: {self.log()}")

    def log(self):
        with open(self._log, encoding="utf-8") as log:
            return log.read()

    def began(self):
        """Return the caller of every call that has begun."""
        return BEGAN.findall(self.log())

    def ended(self):
        """Return an Ended for every call that has."""
        return [Ended(caller, why, int(packets_in), int(packets_out))
                for caller, why, packets_in, packets_out in ENDED.findall(self.log())]

    def complaints(self):
        """Return what was logged above info, tracebacks with it."""
        return [line for line in self.log().splitlines() if " INFO " not in line]

    def usage(self):
        """Return how many threads and open files the server has."""
        proc = f"/proc/{self.process.pid}"
        return Usage(len(os.listdir(f"{proc}/task")), len(os.listdir(f"{proc}/fd")))

    def is_idle_again(self):
        """Return whether the server gets back to the threads and files it started with."""
        return wait_until(lambda: self.usage() == self.idle)


class SIPp:
    """A run of SIPp with one of our scenarios, begun at once. `with` ends it at the latest.

    target: (ip, port). Its files lie in path, which is its working directory.
    """

    def __init__(self, path, scenario, target, calls=1, rate=10, options=(), seconds=60,
                 host=SIPP_HOST):
        self._path, self._scenario, self._seconds = path, scenario, seconds
        # SIPp reads audio from the scenario's folder and writes its results there
        shutil.copy(os.path.join(HERE, "scenarios", f"{scenario}.xml"), path)
        with open(os.path.join(path, "voice.pcma"), "wb") as voice:
            voice.write(bytes(range(200)) * 32)  # 0.8 s of A-law: silent again before the BYE
        command = [*host.enter, "sipp", "{}:{}".format(*target), "-sf", f"{scenario}.xml",
                   "-nostdin", "-i", host.ip, "-mi", host.ip, "-ci", host.ip, "-bind_local",
                   "-p", "0", "-m", str(calls), "-r", str(rate), "-l", str(calls),
                   "-trace_err", "-error_file", "errors.log",
                   "-trace_counts", "-trace_shortmsg", "-shortmessage_file", "messages.csv"]
        with open(os.path.join(path, "screen.txt"), "wb") as screen:
            self.process = subprocess.Popen(command + list(options), cwd=path, stdout=screen,
                                            stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait(10)

    def wait(self):
        """Return 0 if every call went as the scenario says, 1 if not, ABORTED if SIPp gave up."""
        try:
            code = self.process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            code = f"nothing after {self._seconds} s"
        if code not in (0, 1, ABORTED):
            with open(os.path.join(self._path, "screen.txt"), errors="replace") as screen:
                raise AssertionError(f"SIPp ended with {code}: {screen.read()[-3000:]}")
        return code

    def counts(self):
        """Return {column of -trace_counts: its last value}, e.g. {"2_200_Recv": 500}."""
        name = f"{self._scenario}_{self.process.pid}_counts.csv"
        with open(os.path.join(self._path, name), newline="") as file:
            rows = list(csv.reader(file, delimiter=";"))
        return {key: int(value) for key, value in list(zip(rows[0], rows[-1]))[2:] if key}

    def retransmissions(self):
        """Return {message: how often it was repeated}, without zeros."""
        return {key: count for key, count in self.counts().items()
                if count and key.endswith("_Retrans")}

    def messages(self):
        """Return (seconds, "R" or "S", Call-ID, CSeq, first line) of each received or sent."""
        with open(os.path.join(self._path, "messages.csv"), newline="") as file:
            return [(float(row[2]), row[3], row[4], row[5], row[6])
                    for row in csv.reader(file, delimiter="\t")]

    def errors(self):
        """Return what SIPp says about failed calls, "" if there are none."""
        path = os.path.join(self._path, "errors.log")
        if not os.path.exists(path):
            return ""
        with open(path) as file:
            return file.read()
