"""An echo: callers hear themselves.

    BOT=examples.echo_bot:answer python server.py
"""


def answer(call):
    call.answer()
    call.say(call.frames())
