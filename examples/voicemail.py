"""A voicemail: beeps, and records until nobody speaks for three seconds or the caller hangs up.

    MAILBOX=/some/where BOT=examples.voicemail:answer python server.py

Messages are WAV files named after the time and the caller.
"""

import os
import re
import time

from examples.prompts import prompt, tone


def answer(call):
    call.answer()
    call.say(prompt("leave", "Please leave a message after the tone.") + tone(880, 0.3))
    caller = re.sub(r"\W", "_", call.caller)[:40]  # no file name may be long
    call.record(os.path.join(os.environ.get("MAILBOX", "."),
                             f"{time.strftime('%Y%m%d-%H%M%S')}-{caller}.wav"))
    for _ in call.utterances(timeout=3):
        pass
    call.record(None)
    call.say(prompt("thanks", "Thank you. Good bye."))
