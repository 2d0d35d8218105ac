"""A voice bot: speech to text, a model, text to speech, on any OpenAI-compatible server.

    AI_URL=https://api.openai.com/v1 AI_KEY=... BOT=examples.voice_bot:answer python server.py

or, with no key and no cloud, `python -m examples.local_ai` and then here no setting at all. The
reply is spoken sentence by sentence while the model still writes, and ends when the caller speaks.
What fails is logged and apologized for; three failures in a row end the call. What was said is
logged, and how long the caller waited for it. Settings are those of examples/ai_client.py, and

    AI_PROMPT     the system prompt
    PROMPTS       a directory whose sorry.wav is the apology (see examples/prompts.py)
"""

import logging
import os
import queue
import re
import threading
from math import ceil
from time import monotonic

from examples.ai_client import TTS_RATE, AIError, chat, synthesize, transcribe
from examples.prompts import prompt

log = logging.getLogger(__name__)

SYSTEM = {"role": "system", "content": os.environ.get(
    "AI_PROMPT", "You speak with a caller on the telephone. Answer in one to three short "
                 "sentences, without lists, links or markdown.")}
HISTORY = 21  # messages, the caller's and ours in turn; an odd number, for the first is a caller's
FAILURES = 3  # in a row
AHEAD = 50  # chunks of 0.1 s
TAIL = 0.26  # seconds of silence in an utterance behind its last word
# not in 3.14, nor after "p.m.", "1." or a title
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b\w\.)(?<!\b(?:Dr|Mr|Ms|No|St)\.)\s+|\n+")


def answer(call):
    call.answer()
    began, history, failures = monotonic(), [], 0
    for utterance in call.utterances():
        try:
            converse(call, utterance, history,
                     {"end of speech": began + utterance.end - TAIL})
            failures = 0
        except AIError as error:
            log.warning("%s: %s", call, error)
            call.say(prompt("sorry", "Sorry, something went wrong. Please try again."))
            failures += 1
            if failures == FAILURES:
                return


def converse(call, utterance, history, times):
    """Reply to an utterance. history: messages; times: {step: when it was done}; both grow."""
    times["silence"] = monotonic()
    text = transcribe(utterance.wav())
    times["transcription"] = monotonic()
    log.info("%s: heard %r", call, text)
    if not text:
        return
    remember(history, "user", text)
    said = []
    chunks = ahead(speech([SYSTEM, *history], said, times))
    seconds = call.say(chunks, rate=TTS_RATE, barge_in="voice")
    text = heard(said, seconds)
    log.info("%s: said %r, first audio %s", call, text, delays(times))
    if text:
        remember(history, "assistant", text)


def speech(messages, said, times):
    """Yield the reply to messages as PCM. said: gets a [sentence, bytes of PCM] for each."""
    for sentence in sentences(chat(messages)):
        times.setdefault("model", monotonic())
        said.append([sentence, 0])
        for chunk in synthesize(sentence):
            times.setdefault("voice", monotonic())
            said[-1][1] += len(chunk)
            yield chunk


def sentences(pieces):
    """Yield the sentences of a text that comes in pieces, each as soon as its end is sure."""
    rest = ""
    for piece in pieces:
        *whole, rest = SENTENCE_END.split(rest + piece)
        yield from filter(re.compile(r"\w").search, whole)
    if re.search(r"\w", rest):
        yield rest


def ahead(chunks):
    """Yield chunks, which a thread of its own takes in advance; closing this closes them.

    While there is nothing this yields b"", so that `say` sees that the caller speaks or is gone.
    """
    ready, room, closed = queue.Queue(), threading.Semaphore(AHEAD), threading.Event()

    def fetch():
        end = None
        try:
            for chunk in chunks:
                ready.put(chunk)
                room.acquire()
                if closed.is_set():
                    break
        except Exception as error:  # is raised again where the chunks are used
            end = error
        finally:
            chunks.close()
            ready.put(end)

    threading.Thread(target=fetch, daemon=True, name="voice-bot").start()
    try:
        while True:
            try:
                chunk = ready.get(timeout=0.1)
            except queue.Empty:
                yield b""
                continue
            if chunk is None:
                return
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
            room.release()
    finally:
        closed.set()
        room.release()


def heard(said, seconds):
    """Return what the caller heard of `said` (see `speech`) when so many seconds were played."""
    left, words = seconds * 2 * TTS_RATE, []
    for sentence, size in said:
        if left > 0:
            share = min(1, left / size) if size else 1
            words += sentence.split()[:ceil(len(sentence.split()) * share)]
        left -= size
    return " ".join(words)


def remember(history, role, text):
    """Add a message, or more to the last one: many models insist that the roles take turns."""
    if history and history[-1]["role"] == role:
        text = f"{history.pop()['content']} {text}"
    history.append({"role": role, "content": text})
    del history[:-HISTORY]


def delays(times):
    """Return how long the caller waited for our first audio, in all and step by step."""
    if "voice" not in times:
        return "never"
    when = list(times.values())
    steps = (f"{name} {after - before:.2f}"
             for name, before, after in zip(list(times)[1:], when, when[1:]))
    return f"{when[-1] - when[0]:.2f} s after the end of speech: {', '.join(steps)}"
