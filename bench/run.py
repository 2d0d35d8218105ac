"""Measure what calls cost: `python bench/run.py` compares the server with a minimal C echo.

    python bench/run.py --calls 500 1000 2000 --runs 5       calls at once, 50 packets/s each
    python bench/run.py --short 300 --seconds 30 --up 1000   300 short calls/s beside 1000 others
    python bench/run.py --hold 5000                          silent calls: what each one takes
    python bench/run.py --short 5 --seconds 1800 --up 195 --every 60 --alone     half an hour

Server and echo run on the first core this process may use, the generator (bench/load.c) on the
last. Each figure is the median of the runs, with the least and the most in parentheses. The last
five rows, and "ready but without a core", show how much the machine was disturbed: if a run had to
wait for a core, or the generator was late, the longest times are not the server's alone. (Threads
of one process also wait for each other.) "Memory" is the process's own; "kernel's memory" is the
change in the whole machine. The server takes its settings from the environment, including BOT.
Needs Linux and gcc; uses the loopback only. The exit status is 1 if a call was not established or a
packet was lost.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
# an address that no other process uses, so that all its ports are free
ADDRESS = f"127.{64 + os.getpid() // 256 % 128}.{os.getpid() % 256}.1"
PORT = 5060
PING = (f"OPTIONS sip:{ADDRESS} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKping;rport"
        f"\r\nFrom: <sip:ping@x>;tag=1\r\nTo: <sip:{ADDRESS}>\r\nCall-ID: ping\r\n"
        "CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n").encode()
TICK = os.sysconf("SC_CLK_TCK")  # of /proc/PID/stat, per second
GRACE = 200  # seconds that a run may take beyond --seconds: calls may get no answer
REALTIME = 10  # priority
ROWS = [  # name, key, format, whether a ratio makes sense
    ("calls established", "up", "{:.0f}", False),
    ("calls failed", "failed", "{:.0f}", False),
    ("SIP retransmissions", "again", "{:.0f}", False),
    ("set-up p50, ms", "set_up_p50", "{:.2f}", True),
    ("set-up p99, ms", "set_up_p99", "{:.2f}", True),
    ("set-up max, ms", "set_up_max", "{:.2f}", True),
    ("BYE to 200 p50, ms", "bye_p50", "{:.2f}", True),
    ("BYE to 200 p99, ms", "bye_p99", "{:.2f}", True),
    ("BYE to 200 max, ms", "bye_max", "{:.2f}", True),
    ("packets sent", "sent", "{:.0f}", False),
    ("packets lost", "lost", "{:.0f}", False),
    ("packets wrong or twice", "bad", "{:.0f}", False),
    ("round trip p50, ms", "round_trip_p50", "{:.3f}", True),
    ("round trip p99, ms", "round_trip_p99", "{:.3f}", True),
    ("round trip p99.9, ms", "round_trip_p999", "{:.3f}", True),
    ("round trip max, ms", "round_trip_max", "{:.3f}", True),
    ("CPU, s per 1000 call-seconds", "cpu_calls", "{:.3f}", True),
    ("CPU, ms per short call", "cpu_short", "{:.3f}", True),
    ("CPU, % of a core", "cpu", "{:.1f}", True),
    ("ready but without a core, %", "waited", "{:.1f}", False),
    ("memory, kB per call", "memory", "{:.1f}", False),
    ("kernel's memory, kB per call", "kernel", "{:.1f}", True),
    ("sockets per call", "sockets", "{:.2f}", True),
    ("threads", "threads", "{:.0f}", False),
    ("generator late p99, ms", "late_p99", "{:.3f}", False),
    ("generator late max, ms", "late_max", "{:.3f}", False),
    ("generator skipped packets", "skipped", "{:.0f}", False),
    ("generator without a core, %", "held_up", "{:.1f}", False),
    ("stolen by the hypervisor, %", "stolen", "{:.1f}", False),
]
HIDDEN = {  # mode: keys that mean nothing in it
    "calls": {"bye_p50", "bye_p99", "bye_max", "cpu_short", "kernel"},
    "short": {"cpu_calls", "waited", "memory", "kernel", "sockets", "threads"},
    "hold": {"bye_p50", "bye_p99", "bye_max", "sent", "lost", "bad", "cpu_calls", "cpu_short",
             "waited", "skipped"},
}


class Failed(Exception):
    """A run cannot be made; the text says why."""


def read(path):
    """Return the text of a file in /proc, or "" if its process has ended."""
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def field(text, name):
    """Return the number in a "Name:   123 kB" line, 0 if there is none."""
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(name + ":"))


def waited(pid):
    """Return how many seconds the threads of a process were ready but had no core."""
    times = (read(f"/proc/{pid}/task/{task}/schedstat").split()
             for task in os.listdir(f"/proc/{pid}/task"))
    return sum(int(words[1]) for words in times if words) / 1e9


class Sample:
    """What the server has used so far and holds now, and how often the generator had to wait."""

    def __init__(self, pid, generator):
        self.at = time.monotonic()  # seconds, as the next three
        self.cpu = sum(map(int, read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:13])) / TICK
        self.waited, self.held_up = waited(pid), waited(generator)
        self.threads, self.sockets = len(os.listdir(f"/proc/{pid}/task")), 0
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                self.sockets += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
        # anonymous pages only: the share of libraries changes with the other processes
        self.memory = field(read(f"/proc/{pid}/smaps_rollup"), "Anonymous")  # kB
        self.stolen = int(read("/proc/stat").split()[8]) / TICK  # by other virtual machines
        whole = read("/proc/meminfo")
        self.kernel = sum(field(whole, name) for name in ("Slab", "KernelStack", "PageTables"))


def build(folder):
    """Compile the generator and the C echo; return their paths. Raises Failed."""
    for name in ("load", "echo"):
        try:
            subprocess.run(["gcc", "-O2", "-o", f"{folder}/{name}", str(HERE / f"{name}.c")],
                           check=True)
        except FileNotFoundError:
            raise Failed("gcc is missing (Debian: apt-get install gcc libc6-dev)") from None
        except subprocess.CalledProcessError:
            raise Failed(f"{name}.c does not compile") from None
    return f"{folder}/load", f"{folder}/echo"


@contextlib.contextmanager
def running(command, cores, options, **keywords):
    """Run a command on these cores; at the end stop it, and print the start of its stderr."""
    def prepare():
        os.sched_setaffinity(0, cores)
        if options.realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME))

    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, preexec_fn=prepare, stderr=log,
                                   universal_newlines=True, **keywords)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
            log.seek(0)
            said = log.read().splitlines()
            for line in [*said[:5], f"and {len(said) - 5} lines more"][:len(said)]:
                print(f"  it said: {line}", file=sys.stderr)


def wait_for(process):
    """Wait until the process answers OPTIONS. Raises Failed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect((ADDRESS, PORT))
        for _ in range(100):
            try:
                sock.send(PING)
                return sock.recv(4096)
            except socket.timeout:
                pass
            except OSError:  # the port is not bound yet
                time.sleep(0.1)
            if process.poll() is not None:
                break
    raise Failed("the server does not start")


def watch(pid, every, ended):
    """Print what a process holds: now, every few seconds (0: never), and when `ended` is set."""
    begun = time.monotonic()
    while every:
        now = Sample(pid, pid)
        print(f"  after {now.at - begun:5.0f} s: {now.memory} kB, {now.threads} threads, "
              f"{now.sockets} sockets", file=sys.stderr, flush=True)
        if ended.is_set():
            return
        ended.wait(every)


def measure(command, load, cores, options):
    """Return the figures of one run as a dict. command: starts the server or the echo."""
    env = dict({"LOG_LEVEL": "warning", "DRAIN_SECONDS": "0"}, **os.environ)
    env.update(BIND_IP=ADDRESS, SIP_PORT=str(PORT))
    with running(command, cores if options.unpinned else cores[:1], options, env=env) as server:
        wait_for(server)
        samples = [Sample(server.pid, server.pid)]
        with running(load, cores[-1:], options, stdout=subprocess.PIPE) as generator:
            watchdog = threading.Timer(options.limit, generator.kill)
            watchdog.start()
            ended = threading.Event()
            watcher = threading.Thread(target=watch, args=(server.pid, options.every, ended))
            watcher.start()
            try:
                for line in generator.stdout:
                    if line.startswith("{"):
                        return figures(json.loads(line), samples, options)
                    if server.poll() is not None:
                        raise Failed("the server ended")
                    samples.append(Sample(server.pid, generator.pid))
            finally:
                watchdog.cancel()
                ended.set()
                watcher.join()
    raise Failed("the generator did not end in time")


def figures(run, samples, options):
    """Return the generator's counts and the server's use. samples: idle, begin, end."""
    idle, begin, end = samples
    calls, seconds, cpu = run["held"] or 1, end.at - begin.at, end.cpu - begin.cpu
    run.update(bad=run["wrong"] + run["twice"], again=run["resends"] + run["repeats"],
               cpu=cpu / seconds * 100, cpu_calls=cpu / seconds / calls * 1000,
               cpu_short=cpu / (options.short * options.seconds or 1) * 1000,
               waited=(end.waited - begin.waited) / seconds * 100,
               held_up=(end.held_up - begin.held_up) / seconds * 100,
               stolen=(end.stolen - begin.stolen) / seconds * 100,
               memory=(end.memory - idle.memory) / calls, kernel=(end.kernel - idle.kernel) / calls,
               sockets=(end.sockets - idle.sockets) / calls, threads=end.threads)
    return run


def cell(runs, key, form):
    values = [run[key] for run in runs]
    text, least, most = (form.format(of(values)) for of in (statistics.median, min, max))
    return text if least == most else f"{text} ({least}-{most})"


def show(runs, mode):
    """Print a table of the runs: {"server": [figures], "C echo": [figures]}."""
    table = [("", *runs, "ratio")]
    for name, key, form, comparable in ROWS:
        if key in HIDDEN[mode] or not all(key in run for column in runs.values() for run in column):
            continue
        ours, *least = (statistics.median(run[key] for run in column) for column in runs.values())
        table.append((name, *(cell(column, key, form) for column in runs.values()),
                      f"{ours / least[0]:.2f}" if comparable and any(least) else ""))
    widths = [max(map(len, column)) for column in zip(*table)]
    table.insert(1, tuple("-" * width for width in widths))
    for row in table:
        print("|", " | ".join(map(str.ljust, row, widths)), "|")
    print(flush=True)


def faults(name, run):
    """Return what went wrong in a run, as a list of lines."""
    wrong = [(run["failed"], f"{run['failed']} of {run['started']} calls failed"
              + (f", the last by {run['refusal']}" if run["refusal"] else "")),
             (run["lost"], f"{run['lost']} of {run['sent']} packets lost, in {run['lossy']} calls"),
             (run["bad"], f"{run['bad']} packets wrong or twice")]
    return [f"{name}: {text}" for count, text in wrong if count]


def compare(title, load, servers, cores, options):
    """Make the runs and print their table; return what went wrong, as a list of lines."""
    print(f"{title}: {options.runs} x {options.seconds:g} s, "
          f"{'not pinned' if options.unpinned else f'on core {cores[0]}'}"
          f"{', real-time priority' if options.realtime else ''}, generator on core {cores[-1]}; "
          f"load average {os.getloadavg()[0]:.2f} before\n", flush=True)
    runs, wrong = {name: [] for name in servers}, []
    for number in range(1, options.runs + 1):
        for name, command in servers.items():
            runs[name].append(measure(command, load, cores, options))
            wrong += faults(f"{title}, run {number}, {name}", runs[name][-1])
            print("  run {number}, {name}: {up} calls, {lost} packets lost".format(
                number=number, name=name, **runs[name][-1]), file=sys.stderr, flush=True)
    show(runs, options.mode)
    return wrong


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=[500], help="calls at once")
    parser.add_argument("--short", type=int, default=0, help="calls of 1 s begun each second")
    parser.add_argument("--up", type=int, default=0, help="calls in progress beside the short ones")
    parser.add_argument("--hold", type=int, nargs="+", help="silent calls at once")
    parser.add_argument("--rate", type=int, default=100, help="calls per second during set-up")
    parser.add_argument("--seconds", type=float, default=10, help="length of a run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--every", type=float, default=0,
                        help="seconds between lines with memory, threads and sockets; 0: none")
    parser.add_argument("--alone", action="store_true", help="without the C echo")
    parser.add_argument("--unpinned", action="store_true", help="server and echo on all cores")
    parser.add_argument("--realtime", action="store_true",
                        help="real-time priority for server, echo and generator; root only")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the server")
    options = parser.parse_args()
    options.mode = "hold" if options.hold else "short" if options.short else "calls"
    if options.realtime and os.geteuid():
        parser.error("--realtime is for root")
    return options


def on_term(number, frame):
    """Exit as at Ctrl-C, so that the processes we started are stopped on the way out."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main():
    options = parse()
    cores = sorted(os.sched_getaffinity(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    signal.signal(signal.SIGTERM, on_term)
    version = subprocess.check_output([options.python, "--version"]).decode().strip()
    print(f"{version}, Linux {os.uname().release}, {len(cores)} cores")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        load, echo = build(folder)
        servers = {"server": [options.python, str(HERE.parent / "server.py")],
                   "C echo": [echo, ADDRESS, str(PORT)]}
        if options.alone:
            del servers["C echo"]
        for count in options.hold or ([options.up] if options.short else options.calls):
            options.limit = count / options.rate + options.seconds + count / 500 + GRACE
            command = [load, "-s", f"{ADDRESS}:{PORT}", "-n", str(count), "-r", str(options.rate),
                       "-t", str(options.seconds), "-x", str(options.short)]
            title = {"calls": f"{count} calls", "hold": f"{count} calls without sound",
                     "short": f"{options.short} short calls/s, {count} calls up"}[options.mode]
            wrong += compare(title, command + ["-q"] * bool(options.hold), servers, cores, options)
    print("\n".join(wrong) or "all calls established, no packet lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"run.py: {error}")
