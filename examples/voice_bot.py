"""A voice bot: speech to text, a model, text to speech, on any OpenAI-compatible server.

    AI_URL=https://api.openai.com/v1 AI_KEY=... BOT=examples.voice_bot:answer python server.py

To try it without a key and a cloud, start `python -m examples.local_ai` and leave out AI_URL and
AI_KEY. The bot speaks each sentence while the model still writes the next, and stops when the
caller speaks. It logs each failure and apologizes; after three failures in a row it hangs up. It
also logs what was said and how long the caller waited. Settings: those of ai_client.py, and

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
HISTORY = 21  # messages at most, in turns; odd, so that the first one is the caller's
FAILURES = 3  # in a row, then the bot hangs up
AHEAD = 50  # chunks of 0.1 s at most that are fetched before they are played
TAIL = 0.26  # seconds of silence that an utterance has after its last word
# matches neither in "3.14" nor after "p.m.", "1." or a title
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
    """Reply to an utterance. history: messages; times: {step: its end}; both are added to."""
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
    """Yield the reply to messages as PCM; append [sentence, bytes of PCM] to said for each."""
    for sentence in sentences(chat(messages)):
        times.setdefault("model", monotonic())
        said.append([sentence, 0])
        for chunk in synthesize(sentence):
            times.setdefault("voice", monotonic())
            said[-1][1] += len(chunk)
            yield chunk


def sentences(pieces):
    """Yield the sentences of a text that comes in pieces, each as soon as it is complete."""
    rest = ""
    for piece in pieces:
        *whole, rest = SENTENCE_END.split(rest + piece)
        yield from filter(re.compile(r"\w").search, whole)
    if re.search(r"\w", rest):
        yield rest


def ahead(chunks):
    """Yield chunks that a thread fetches in advance; close them when this is closed.

    While no chunk is ready, yield b"", so that `say` notices a caller who speaks or hangs up.
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
        except Exception as error:  # raised again by the generator below
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
    """Return the part of `said` (see `speech`) that was played in this many seconds."""
    left, words = seconds * 2 * TTS_RATE, []
    for sentence, size in said:
        if left > 0:
            share = min(1, left / size) if size else 1
            words += sentence.split()[:ceil(len(sentence.split()) * share)]
        left -= size
    return " ".join(words)


def remember(history, role, text):
    """Add a message, or extend the last one: many models require that the roles alternate."""
    if history and history[-1]["role"] == role:
        text = f"{history.pop()['content']} {text}"
    history.append({"role": role, "content": text})
    del history[:-HISTORY]


def delays(times):
    """Return how long the caller waited for the first audio: in total and for each step."""
    if "voice" not in times:
        return "never"
    when = list(times.values())
    steps = (f"{name} {after - before:.2f}"
             for name, before, after in zip(list(times)[1:], when, when[1:]))
    return f"{when[-1] - when[0]:.2f} s after the end of speech: {', '.join(steps)}"
