"""The bots of the interop tests: the called number chooses one."""

import logging
import re
import threading
import time
from math import pi, sin
from struct import pack

import bot

log = logging.getLogger(__name__)


def raises(call):
    raise ZeroDivisionError("as the test wants it")


def blocks(call):
    call.answer()
    time.sleep(120)


def eats(call):
    """Compute during the whole call, and hold the interpreter lock."""
    call.answer()
    while not call.ended:
        sum(range(10000))


def echo_wide(call):
    call.answer(rate=16000)
    call.say(call.frames())


def transfers(call):
    """Transfer the caller to the echo of this server."""
    call.answer()
    uri = re.search("sip:[^>;]+", call.headers["To"]).group()
    try:
        call.transfer(uri.replace("transfer", "echo"))
    except bot.TransferError as error:
        log.info("not transferred: %s", error)
        call.say(call.frames())


def tone(call):
    """Play a second of a tone."""
    call.answer()
    call.say(b"".join(pack("<h", int(8000 * sin(i * pi / 10))) for i in range(8000)))


def answer(call):
    does = {"transfer": transfers, "raise": raises, "block": blocks, "eat": eats, "echo": bot.echo,
            "tone": tone,
            "never": lambda call: threading.Event().wait(120), "return": lambda call: None}
    does[call.called](call)
