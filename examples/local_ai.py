"""A local server with OpenAI's three voice endpoints, for examples/voice_bot.py without a cloud.

    pip install pocketsphinx                    # speech to text; brings its model
    apt-get install espeak-ng                   # text to speech
    python -m examples.local_ai                 # prints its URL
    BOT=examples.voice_bot:answer python server.py

It serves POST /v1/audio/transcriptions, /v1/chat/completions (also streamed) and /v1/audio/speech
on 127.0.0.1, to every user of this machine. The model is a script: it answers the sentences in
REPLIES, and the recognizer recognizes only those. Settings, from the environment:

    PORT      8080    0 means any free port
    GRAMMAR           a JSGF file with the sentences to recognize; "none" recognizes free speech,
                      which on a telephone line is wrong more often than right
    VOICE     en-us   the voice of espeak-ng if the request names none
"""

import array
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bot import Resampler, wav

log = logging.getLogger("local_ai")

MAX_BODY = 25 << 20  # bytes, OpenAI's limit for audio
TTS_RATE, ESPEAK_RATE, STT_RATE = 24000, 22050, 16000  # Hz; OpenAI's "pcm" has 24000
LIKE_ESPEAK = re.compile(r"[a-z]{2}(-[a-z-]+)?(\+[a-z0-9]+)?")
REPEAT = "repeat that please"
REPLIES = {
    "what time is it": "It is time to call your mother.",
    "tell me a joke": "Why did the phone wear glasses? Because it lost its contacts.",
    "tell me a story": "Once upon a time there was a telephone that nobody ever called. Every "
                       "evening it waited in the dark hall, and listened to the clock. Then one "
                       "night it rang. It was a wrong number, but the two of them talked until "
                       "the morning. Since then they call each other every day.",
    "what is the weather": "It is sunny, with a light wind from the west.",
    "what are your opening hours": "We are open from nine to five, Monday to Friday.",
    "call the operator": "All operators are busy. Please stay on the line.",
    "read my messages": "You have two new messages, and both are from the dentist.",
    "play some music": "I am sorry, but I can only hum.",
    "cancel my appointment": "Your appointment is cancelled. Nobody will miss you.",
    REPEAT: "",  # the last reply again
    "good bye": "Good bye, and thank you for calling.",
}
UNKNOWN = "I did not understand. Please ask me for a joke, a story or the weather."


class Refused(Exception):
    """A request cannot be served. status: the HTTP status of the response."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


# The engines

class Recognizer:
    """Recognize speech with pocketsphinx, one utterance at a time. grammar: GRAMMAR above."""

    def __init__(self, grammar=""):
        self._grammar, self._decoder, self._lock = grammar, None, threading.Lock()

    def hear(self, sound):
        """Return the text of 16-bit mono PCM at STT_RATE, or "".

        Raises Refused without pocketsphinx, OSError and ValueError for a bad grammar.
        """
        with self._lock:
            self._decoder = self._decoder or self._load()
            self._decoder.start_utt()
            self._decoder.process_raw(with_noise(sound) or bytes(2), full_utt=True)
            self._decoder.end_utt()
            best = self._decoder.hyp()
        return best.hypstr if best else ""

    def _load(self):
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise Refused(501, "pocketsphinx is missing: pip install pocketsphinx") from None
        options = {"cmn": "batch", "loglevel": "FATAL"}
        if self._grammar == "none":
            return Decoder(**options)
        grammar = f"#JSGF V1.0; grammar commands; public <command> = {' | '.join(REPLIES)};"
        if self._grammar:
            with open(self._grammar, encoding="utf-8") as file:
                grammar = file.read()
        decoder = Decoder(lm=None, **options)
        decoder.add_jsgf_string("commands", grammar)
        decoder.activate_search("commands")
        return decoder


def with_noise(sound):
    """Return PCM with faint noise added.

    A telephone carries nothing above 3.4 kHz, and the model was not trained on such audio. The
    noise raises the share of espeak-ng's commands that are recognized from 75 % to 97 %.
    """
    samples = array.array("h", sound)
    level = max(map(abs, samples), default=0) // 50
    noise = random.Random(1).choices(range(-level, level + 1), k=len(samples))
    return array.array("h", [min(max(s + n, -32768), 32767)
                             for s, n in zip(samples, noise)]).tobytes()


def reply(messages):
    """Return the script's reply to the last message, which ends with a command."""
    said = re.sub(r"[^a-z ]", "", messages[-1]["content"].lower()).strip()
    command = next((command for command in REPLIES if said.endswith(command)), None)
    if command == REPEAT:
        before = [m["content"] for m in messages if m["role"] == "assistant"]
        return before[-1] if before else UNKNOWN
    return REPLIES.get(command, UNKNOWN)


def speak(text, voice):
    """Return text as chunks of 16-bit mono PCM at TTS_RATE, by espeak-ng."""
    if not LIKE_ESPEAK.fullmatch(voice):
        voice = os.environ.get("VOICE", "en-us")
    try:
        spoken = subprocess.run(["espeak-ng", "-v", voice, "--stdin", "--stdout"], timeout=30,
                                input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    except FileNotFoundError:
        raise Refused(501, "espeak-ng is missing: apt-get install espeak-ng") from None
    except subprocess.SubprocessError as error:
        raise Refused(500, f"espeak-ng: {error}") from None
    return at_tts_rate(wav(spoken, ESPEAK_RATE))


def at_tts_rate(sound):
    """Yield PCM at ESPEAK_RATE as PCM at TTS_RATE, so that its first words can leave at once."""
    resampler, step = Resampler(ESPEAK_RATE, TTS_RATE), ESPEAK_RATE // 5
    for at in range(0, len(sound), step):
        yield resampler.feed(sound[at:at + step])
    yield resampler.flush()


# The endpoints: from (body, its content type) to (content type, chunks of the body)

RECOGNIZER = Recognizer(os.environ.get("GRAMMAR", ""))


def transcriptions(body, content_type):
    try:
        sound = wav(io.BytesIO(form(body, content_type)["file"]), STT_RATE)
    except ValueError as error:
        raise Refused(400, f"file: {error}") from None
    text = RECOGNIZER.hear(sound)
    log.info("heard %r", text)
    return as_json({"text": text})


def completions(body, content_type):
    request = json.loads(body)
    text = reply(request["messages"])
    if request.get("stream"):
        return "text/event-stream", events(text)
    message = {"role": "assistant", "content": text}
    return as_json({"object": "chat.completion", "choices": [
        {"index": 0, "message": message, "finish_reason": "stop"}]})


def events(text):
    """Yield text word by word, as server-sent events."""
    words = [({"content": word}, None) for word in re.findall(r"\S+\s*", text)]
    for delta, reason in [*words, ({}, "stop")]:
        event = {"object": "chat.completion.chunk",
                 "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        yield f"data: {json.dumps(event)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def speech(body, content_type):
    request = json.loads(body)
    kind = request.get("response_format")
    if kind not in ("pcm", "wav"):
        raise Refused(400, "response_format must be pcm or wav")
    chunks = speak(request["input"], request.get("voice", ""))
    if kind == "pcm":
        return "audio/pcm", chunks
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, TTS_RATE, 0, "NONE", ""))
        out.writeframes(b"".join(chunks))
    return "audio/wav", [file.getvalue()]


ENDPOINTS = {"/v1/audio/transcriptions": transcriptions, "/v1/chat/completions": completions,
             "/v1/audio/speech": speech}


def form(body, content_type):
    """Return the parts of multipart/form-data by name, as bytes (RFC 7578)."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if not boundary:
        raise Refused(400, "multipart/form-data expected")
    parts = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.group(1).encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        parts[name.group(1).decode() if name else ""] = content
    return parts


def as_json(value):
    return "application/json", [json.dumps(value).encode()]


class Handler(BaseHTTPRequestHandler):
    """Serve ENDPOINTS by HTTP/1.1, with chunked bodies and errors in OpenAI's JSON."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds at most without a byte from a client
    disable_nagle_algorithm = True  # else each chunk waits for TCP's ACK of the last

    def do_POST(self):
        status = 200
        try:
            kind, chunks = self.serve()
        except Refused as error:
            status, (kind, chunks) = error.status, as_json({"error": {"message": str(error)}})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            status, (kind, chunks) = 400, as_json({"error": {"message": f"bad request: {error!r}"}})
        try:
            self.respond(status, kind, chunks)
        except OSError as error:  # the voice bot closes when its caller interrupts
            log.debug("client gone: %s", error)
            self.close_connection = True

    def serve(self):
        endpoint, size = ENDPOINTS.get(self.path), int(self.headers.get("Content-Length", 0))
        if size > MAX_BODY:
            self.close_connection = True
            raise Refused(413, f"larger than {MAX_BODY} bytes")
        body = self.rfile.read(size)
        if not endpoint:
            raise Refused(404, f"no such endpoint: {self.path}")
        return endpoint(body, self.headers.get("Content-Type", ""))

    def respond(self, status, kind, chunks):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in filter(None, chunks):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, text, *args):
        log.debug(text, *args)


def main():
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "info").upper(),
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        RECOGNIZER.hear(b"")  # loads the model, so that the first caller does not wait
    except Refused as error:
        log.warning("%s", error)  # the other endpoints still work
    except (OSError, ValueError) as error:
        sys.exit(f"local_ai: GRAMMAR={os.environ['GRAMMAR']}: {error}")
    with ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Handler) as server:
        log.info("AI_URL=http://127.0.0.1:%d/v1", server.server_port)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
