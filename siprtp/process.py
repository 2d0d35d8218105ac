"""The process: its limits, its interpreter settings, its signals and its threads."""

import gc
import logging
import signal
import sys
import threading
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# Ended calls leave no cycles, so only bots need garbage collection, and seldom: with many calls up
# each full collection delays every packet by 100 ms.
GARBAGE_THRESHOLDS = 5000, 50, 100
# How long a computing bot may keep the interpreter lock; Python's own 5 ms would make a packet of
# every call that late.
SWITCH_SECONDS = 0.0005
WAITED_FOR = ("bot-", "recorder")  # how the names of threads begin that a stop waits for


def tune():
    """Set up the interpreter and the limits for many calls."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # the modules stay, so no collection need look at them again
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    raise_file_limit()


def raise_file_limit():
    """Raise the limit of open files as far as allowed: a call has two sockets."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            log.info("up to %d open files (ulimit -n was %d)", hard, soft)
        except (OSError, ValueError) as error:
            log.warning("at most %d open files, raising ulimit -n failed: %s", soft, error)


def wait_for_threads(seconds):
    """Give bots and recordings this long to finish; the end of the process cuts them off."""
    end = time.monotonic() + seconds
    for name in WAITED_FOR:
        for thread in threading.enumerate():
            if thread.name.startswith(name):
                thread.join(max(0.0, end - time.monotonic()))


def obey_signals(server):
    """Let SIGTERM drain the server, SIGINT stop it and a second signal end it.

    Return the list of the signals received, which grows.
    """
    received = []

    def on_signal(number, frame):
        received.append(number)
        if len(received) == 1:
            server.call_soon(server.drain if number == signal.SIGTERM else server.stop)
        elif len(received) == 2 and server.running:
            server.call_soon(server.stop_now)
        else:
            sys.exit(1)  # the loop is stuck, or only bots are waited for

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return received
