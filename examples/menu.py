"""A phone menu: press 1 to hear yourself, 2 to get your keys back, 0 for the operator.

    OPERATOR=sip:4711@192.0.2.10 BOT=examples.menu:answer python server.py

Callers may press keys during a prompt or before it. After three rounds without a choice the menu
hangs up. To use prompts of your own, put menu.wav, echo.wav, number.wav, operator.wav, sorry.wav
and bye.wav into a directory and set PROMPTS to it (see examples/prompts.py).
"""

import itertools
import logging
import os

from bot import TransferError
from examples.prompts import prompt

log = logging.getLogger(__name__)
OPERATOR = os.environ.get("OPERATOR", "")  # a SIP URI
MENU = "Press 1 to hear yourself, 2 to have a number read back, or 0 for the operator."


def echo(call):
    call.say(prompt("echo", "Speak for ten seconds, and hear yourself."))
    call.say(itertools.islice(call.frames(), 500))  # frames of 20 ms: 10 s


def read_back(call):
    call.say(prompt("number", "Dial a number, then press hash."), barge_in=True)
    call.send_digits(call.digits())


def operator(call):
    call.say(prompt("operator", "One moment, please."))
    call.transfer(OPERATOR)


CHOICES = {"1": echo, "2": read_back, "0": operator}


def answer(call):
    call.answer()
    rounds = 0
    while rounds < 3:
        call.say(prompt("menu", MENU), barge_in=True)
        choice = CHOICES.get(call.digits(1))
        rounds = 0 if choice else rounds + 1
        try:
            if choice:
                choice(call)
        except (TransferError, ValueError) as error:  # ValueError: no OPERATOR, or no keys agreed
            log.warning("%s: %s", call, error)
            call.say(prompt("sorry", "Sorry, that is not possible now."))
    call.say(prompt("bye", "Good bye."))
