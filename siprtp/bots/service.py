"""Run a bot in its thread, and tell its call what happens in the SIP and RTP threads."""

import logging
import threading

from bot import CallEnded

MAX_DEPTH = 20  # groups within groups: an exception may even contain itself

log = logging.getLogger("bot")  # the name under which a bot's author looks for failures


class Service:
    """The server's side of a bot.Call."""

    def __init__(self, call):
        self.call = call

    def run(self, function):
        """Call function(call), then end the call if the bot has not. The bot's thread."""
        call, status, why = self.call, 480, "its bot returned"
        try:
            function(call)
        except BaseException as error:  # also SystemExit and asyncio's CancelledError
            if is_call_ended(error):
                log.debug("%s: the call ended while its bot was running", call)
            else:
                log.exception("%s: its bot failed", call)
                status, why = 500, "its bot failed"
        call._audio.discard()
        call._audio.play_out()
        call._actions.hang_up(status, why)

    def tick(self):
        """Process 20 ms of audio; return whether to go on. The RTP thread."""
        try:
            return self.call._audio.tick()
        except Exception:
            log.exception("%s: its audio failed", self.call)
            self.call._audio.failed = True
            self.call._actions.hang_up(500, "its audio failed")
            return True

    def on_answered(self):
        """Let answer() return: the caller has sent its ACK."""
        self.call._on_answered()

    def on_key(self, key):
        """Queue a key that the caller pressed."""
        self.call._audio.press(key)

    def on_end(self, why=""):
        """End the call: each method that waits raises CallEnded(why)."""
        self.call._why = why
        self.call._audio.end()


def is_call_ended(error, depth=0):
    """Return whether an exception is CallEnded, or a group (PEP 654) of nothing else."""
    inner = getattr(error, "exceptions", None)
    if isinstance(error, CallEnded) or not isinstance(inner, (list, tuple)):
        return isinstance(error, CallEnded)
    return (bool(inner) and depth < MAX_DEPTH
            and all(is_call_ended(one, depth + 1) for one in inner))


def quiet_helper_threads():
    """Log one line if CallEnded ends a thread that a bot started (Python 3.8 and later)."""
    before = getattr(threading, "excepthook", None)

    def hook(args):
        if is_call_ended(args.exc_value):
            log.debug("thread %s ended with its call: %s", args.thread and args.thread.name,
                      args.exc_value)
        else:
            before(args)

    if before:
        threading.excepthook = hook
