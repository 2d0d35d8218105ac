"""A client of the three OpenAI-compatible endpoints that a voice bot needs.

Settings, from the environment:

    AI_URL        http://127.0.0.1:8080/v1    the default is examples/local_ai.py
    AI_KEY                                    sent as a bearer token if it is set
    AI_STT_MODEL  whisper-1                   for /audio/transcriptions
    AI_MODEL      gpt-4o-mini                 for /chat/completions
    AI_TTS_MODEL  tts-1                       for /audio/speech
    AI_VOICE      alloy
    AI_TTS_RATE   24000                       Hz of the "pcm" that /audio/speech returns
"""

import json
import os
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

URL = os.environ.get("AI_URL", "http://127.0.0.1:8080/v1").rstrip("/")
# without whitespace: http.client would quote a key with a newline in its error
KEY = "".join(os.environ.get("AI_KEY", "").split())
STT_MODEL = os.environ.get("AI_STT_MODEL", "whisper-1")
MODEL = os.environ.get("AI_MODEL", "gpt-4o-mini")
TTS_MODEL = os.environ.get("AI_TTS_MODEL", "tts-1")
VOICE = os.environ.get("AI_VOICE", "alloy")
TTS_RATE = int(os.environ.get("AI_TTS_RATE", "24000"))
TIMEOUT = 15.0  # seconds at most between two pieces of a response; callers do not wait longer
CHUNK = 4800  # bytes, 0.1 s at 24000 Hz


class AIError(Exception):
    """A request failed; the text says which and why."""


def transcribe(wav):
    """Return the text spoken in the bytes of a WAV file. Raises AIError."""
    boundary = os.urandom(16).hex()
    head = (f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{STT_MODEL}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
            "Content-Type: audio/wav\r\n\r\n")
    body = head.encode() + wav + f"\r\n--{boundary}--\r\n".encode()
    with post("/audio/transcriptions", body, f"multipart/form-data; boundary={boundary}") as reply:
        return json.loads(reply.read())["text"].strip()


def chat(messages):
    """Yield the model's reply to the messages in pieces, as it writes them. Raises AIError."""
    with post_json("/chat/completions", model=MODEL, messages=messages, stream=True) as reply:
        for line in reply:  # server-sent events
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                return
            for choice in json.loads(data)["choices"] if data else ():
                yield choice["delta"].get("content") or ""
        raise EOFError("the reply is cut short")


def synthesize(text):
    """Yield text as 16-bit mono PCM at TTS_RATE, in chunks. Raises AIError."""
    with post_json("/audio/speech", model=TTS_MODEL, voice=VOICE, input=text,
                   response_format="pcm") as reply:
        chunk = reply.read(CHUNK)
        while chunk:
            yield chunk
            chunk = reply.read(CHUNK)


def post_json(path, **fields):
    return post(path, json.dumps(fields).encode(), "application/json")


@contextmanager
def post(path, body, content_type):
    """Send a POST; return its response, to be read in a with-statement. Raises AIError."""
    headers = {"Content-Type": content_type, "Connection": "close"}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    try:
        url = urlsplit(URL + path)
        connect = {"http": HTTPConnection, "https": HTTPSConnection}[url.scheme]
        with closing(connect(url.hostname, url.port, timeout=TIMEOUT)) as connection:
            connection.request("POST", url.path, body, headers)
            with connection.getresponse() as reply:
                if reply.status != 200:
                    raise HTTPException(f"{reply.status} {reply.read(300)!r}")
                yield reply
    except (OSError, HTTPException, EOFError, ValueError, LookupError, TypeError,
            AttributeError) as error:  # the last four: unexpected JSON
        text = f"{path}: {type(error).__name__}: {error}"
        raise AIError(text.replace(KEY, "***") if KEY else text) from None
