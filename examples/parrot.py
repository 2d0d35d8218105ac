"""A parrot: beep, then repeat each thing the caller says. Talk over it to stop it.

    BOT=examples.parrot:answer python server.py
"""

from examples.prompts import tone


def answer(call):
    call.answer()
    call.say(tone(880, 0.2))
    for utterance in call.utterances():
        call.say(utterance.pcm, barge_in="voice")
