"""A voicemail: beep, then record until the caller is silent for 3 s or hangs up.

    MAILBOX=/some/where BOT=examples.voicemail:answer python server.py

Messages are WAV files named after the time and the caller. The work to do after the recording, here
a log line, is in `finally`, so it is also done when the caller hangs up.
"""

import os
import re
import time

from examples.prompts import prompt, tone


def answer(call):
    call.answer()
    call.say(prompt("leave", "Please leave a message after the tone.") + tone(880, 0.3))
    caller = re.sub(r"\W", "_", call.caller)[:40]  # file names have a limited length
    call.record(os.path.join(os.environ.get("MAILBOX", "."),
                             f"{time.strftime('%Y%m%d-%H%M%S')}-{caller}.wav"))
    try:
        for _ in call.utterances(timeout=3):
            pass
    finally:
        path = call.record(None)  # complete from here on
        call.log.info("new message: %s", path)
    call.say(prompt("thanks", "Thank you. Good bye."))
