"""Measure vad.py: how well it tells voice from noise, and where it cuts utterances.

    python bench/vad.py             voices and phrases that are kept for the test
    python bench/vad.py --tuning    those that vad.py was tuned with

espeak-ng speaks the phrases and sox makes the noises; all audio is limited to the telephone's band
and coded in A-law, at -25 dBFS unless a row says otherwise. All runs give the same figures (but for
the cost of hear()). A run takes half a minute.

    hit %     share of the frames with speech (down to 25 dB below the caller's mean) called voice
    false %   share of the frames between the phrases called voice, hangover included
    cut       phrases that became exactly one utterance, with no part of another phrase in it
    missed    phrases that are in no utterance
    extra     utterances without a phrase, per minute of pauses
    lost      ms of a phrase missing from its utterance, both ends together, mean
    end       ms from the end of a phrase until its utterance is delivered, median
    barge     ms from the first speech to the end of the second loud frame in a row, median
    heard     phrases that have two loud frames in a row
    alarms    two loud frames in a row without speech, per minute of pauses
"""

import array
import concurrent.futures
import copy
import math
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from siprtp.media.vad import FRAME_MS, UtteranceCutter, VoiceDetector

FRAME = 160  # samples, of 20 ms
RAW = ["-t", "raw", "-r", "8000", "-e", "signed", "-b", "16", "-c", "1", "-L"]
BAND = ["sinc", "-n", "255", "200-3400"]  # Hz, the telephone's band
NOISES = "white", "pink", "brown"
NOISE_SECONDS = 120
SPEECH = 0.056  # of the RMS of a caller's speech: frames 25 dB below it are pauses

TUNING = (
    ("en-us", 160, "Hello?|Hello, this is Peter Miller speaking.|Yes.|No, I don't think so.|"
     "I would like to book a table for four people tonight.|At half past seven, please.|Okay.|"
     "My number is oh four nine, double three, seven two one.|Can I talk to somebody?|"
     "That's all, thank you, goodbye."),
    ("en-gb+f3", 175, "Yes?|Good morning, I'm calling about my invoice.|Six.|Stop.|"
     "The one from the third of March, number forty two thousand and eleven.|Sure.|"
     "It says that I should pay twice, and that can't be right.|Please check.|Never mind.|Bye."),
    ("de+m3", 170, "Hallo?|Guten Tag, hier ist Sabine Fischer.|Ja.|Nein, das stimmt so nicht.|"
     "Ich möchte meinen Termin am Donnerstag auf nächste Woche verschieben.|Um acht.|"
     "Das passt mir sehr gut, vielen Dank.|Moment bitte.|Genau.|Auf Wiederhören."),
    ("fr+f2", 165, "Allô?|Bonjour, je voudrais parler au service clients.|Oui.|"
     "Mon numéro de commande est le soixante-douze, vingt et un.|Non.|D'accord.|"
     "Je ne l'ai toujours pas reçu depuis deux semaines.|C'est ça.|Merci beaucoup.|Au revoir."),
)
TEST = (
    ("en-gb-scotland+m5", 150, "Who is this?|I lost my card yesterday evening in a taxi.|Two.|"
     "Could you block it as soon as possible?|Aye.|It ends with nine five oh three.|Help.|"
     "And please send the new one to my office, not to my flat.|Right.|Cheers."),
    ("en-us+f4", 180, "Hi!|What time do you close on Saturdays?|Nope.|Operator.|"
     "I have been waiting for the technician since ten o'clock this morning.|Eight.|"
     "Is there anything else that you need from me?|Uh huh.|Wait a second.|See you then."),
    ("es+m2", 170, "¿Diga?|Buenos días, quiero cambiar la fecha de mi vuelo.|Sí.|Claro.|"
     "Salgo de Sevilla el veinte de agosto por la tarde.|Tres.|No, con una maleta nada más.|"
     "¿Cuánto me va a costar eso?|De acuerdo.|Muchas gracias, hasta luego."),
    ("it+f5", 160, "Pronto?|Buonasera, chiamo per la prenotazione di domani.|Sì.|Otto.|"
     "Siamo in cinque, con due bambini piccoli.|No.|Vorremmo un tavolo vicino alla finestra.|"
     "Va bene così.|Perfetto.|Grazie mille, arrivederci."),
    ("nl+m7", 175, "Ja?|Goedemiddag, ik bel over de huur van een auto.|Nee.|Vier dagen.|"
     "Van maandag tot en met donderdag, als dat kan.|Goed.|Een kleine is groot genoeg.|"
     "Waar kan ik hem ophalen?|Prima.|Dank u wel, tot ziens."),
)




def run(*command, data=b""):
    """Return the output of a program. data: its input."""
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=True).stdout


def samples(pcm):
    values = array.array("h", pcm)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def speak(voice, speed, phrase):
    wav = run("espeak-ng", "-v", voice, "-s", str(speed), "--stdout", phrase)
    return samples(run("sox", "-D", "-t", "wav", "-", *RAW, "-", "gain", "-6", *BAND, data=wav))


def make_noise(colour):
    """Return NOISE_SECONDS of noise with an RMS of 1, in the telephone's band."""
    pcm = run("sox", "-R", "-D", "-n", *RAW, "-", "synth", str(NOISE_SECONDS), colour + "noise",
              "gain", "-6", *BAND, "gain", "-n", "-3")
    return scaled(samples(pcm), 1)


def rms(values):
    return math.sqrt(sum(x * x for x in values) / len(values))


def scaled(values, level):
    factor = level / rms(values)
    return [x * factor for x in values]


def dbfs(level):
    return 32768 * 10 ** (level / 20)


def loudness():
    """Return a table: [x] is the loudness of the 16-bit sample x after A-law (ITU-T G.711)."""
    table = []
    for x in [*range(32768), *range(-32768, 0)]:
        step = 2 ** max(4, (x if x >= 0 else ~x).bit_length() - 5)
        table.append(round(16 * math.log2(1 + abs(x // step * step + step // 2) / 8)))
    return table


LOUDNESS = loudness()


class Call(NamedTuple):
    """What the server receives in one call."""

    levels: list  # one per frame
    spans: list  # (first frame, frame after the last) of each phrase
    speech: set  # frames with speech


class Caller:
    """One voice and the phrases it speaks."""

    def __init__(self, voice, speed, phrases):
        self.voice, self.phrases = voice, []  # lists of frames, from the first loud to the last
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for pcm in pool.map(lambda phrase: speak(voice, speed, phrase), phrases.split("|")):
                frames = [pcm[i:i + FRAME] for i in range(0, len(pcm) - FRAME + 1, FRAME)]
                heard = [i for i, frame in enumerate(frames) if rms(frame) > 300]
                self.phrases.append(frames[heard[0]:heard[-1] + 1])
        powers = [rms(frame) ** 2 for phrase in self.phrases for frame in phrase]
        self.active = math.sqrt(statistics.mean(powers))  # RMS while it speaks

    def alone(self):
        """Yield one Caller per phrase, who speaks only that."""
        for number, phrase in enumerate(self.phrases):
            one = copy.copy(self)
            one.voice, one.phrases = f"{self.voice} {number}", [phrase]
            yield one

    def call(self, noise, snr=20, level=-25, offset=0, pauses=(50, 140), lead=(2, 50),
             dtx=False):
        """Return a Call; without noise if that is None.

        snr: dB. level: dBFS. offset: added to each sample. pauses, lead: (least, most) frames
        between and before the phrases. dtx: digital silence in the pauses.
        """
        rng = random.Random(self.voice)
        spans, speech, values = [], set(), [0] * FRAME * rng.randrange(*lead)
        scale = dbfs(level) / self.active
        for phrase in self.phrases:
            first = len(values) // FRAME
            for number, frame in enumerate(phrase, first):
                values += [x * scale for x in frame]
                if rms(frame) > self.active * SPEECH:
                    speech.add(number)
            spans.append((min(number for number in speech if number >= first), max(speech) + 1))
            values += [0] * FRAME * rng.randrange(*pauses)
        values += [0] * FRAME * 50
        if noise:
            loud, at = dbfs(level - snr), rng.randrange(len(noise) - len(values))
            values = [x + y * loud for x, y in zip(values, noise[at:])]
        levels = levels_of(values, offset)
        if dtx:
            near = {i for first, last in spans for i in range(first - 5, last + 15)}
            levels = [level if i in near else 16 for i, level in enumerate(levels)]
        return Call(levels, spans, speech)


def levels_of(values, offset=0):
    heard = [LOUDNESS[max(-32768, min(32767, int(x + offset)))] for x in values]
    return [sum(heard[i:i + FRAME]) / FRAME for i in range(0, len(heard) - FRAME + 1, FRAME)]


def listen(call):
    """Return (verdict of each frame, [(Utterance, frame it came at)], barge-in frames)."""
    detector, cutter = VoiceDetector(), UtteranceCutter()
    verdicts, utterances, barges, loud = [], [], [], 0
    for number, level in enumerate(call.levels):
        loud = loud + 1 if detector.is_loud(level) else 0
        if loud == 2:
            barges.append(number)
        verdicts.append(detector.feed(level))
        utterance = cutter.feed(b"", verdicts[-1])
        if utterance:
            utterances.append((utterance, number))
    return verdicts, utterances, barges


class Score:
    """Counts what the detector got right and wrong in some calls."""

    def __init__(self, calls):
        self.speech = self.hits = self.pauses = self.alarms = 0  # frames
        self.phrases = self.right = self.missed = self.false = self.false_barges = 0
        self.lost, self.ends, self.barges = [], [], []  # ms
        for call in calls:
            self.add(call)

    def add(self, call):
        verdicts, utterances, barges = listen(call)
        inside = {i for first, last in call.spans for i in range(first, last)}
        self.speech += len(call.speech)
        self.hits += sum(verdicts[i] for i in call.speech)
        self.pauses += len(verdicts) - len(inside)
        self.alarms += sum(verdict for i, verdict in enumerate(verdicts) if i not in inside)
        self.false_barges += sum(number not in inside for number in barges)
        self.phrases += len(call.spans)
        found = [[span for span in call.spans if overlap(span, utterance, verdicts)]
                 for utterance, _ in utterances]
        self.false += found.count([])
        for span in call.spans:
            self.add_phrase(span, [cut for cut, spans in zip(utterances, found) if span in spans],
                            found.count([span]), barges)

    def add_phrase(self, span, cuts, alone, barges):
        self.missed += not cuts
        self.right += alone == 1 == len(cuts)
        first, last = span
        self.barges += [(number + 1 - first) * FRAME_MS for number in barges
                        if first <= number < last][:1]
        if cuts:
            self.lost.append(max(0, cuts[0][0].start * 1000 - first * FRAME_MS)
                             + max(0, last * FRAME_MS - cuts[-1][0].end * 1000))
            self.ends.append((cuts[-1][1] + 1 - last) * FRAME_MS)

    def row(self):
        minutes = self.pauses * FRAME_MS / 60000
        percent = [f"{100 * part / whole:.1f}" if whole else "-" for part, whole in (
            (self.hits, self.speech), (self.alarms, self.pauses))]
        rest = [f"{self.false / minutes:.1f}", *(f"{kind(values):.0f}" if values else "-" for
                kind, values in ((statistics.mean, self.lost), (statistics.median, self.ends),
                                 (statistics.median, self.barges))),
                len(self.barges), f"{self.false_barges / minutes:.1f}"]
        return [*percent, f"{self.right}/{self.phrases}", self.missed, *rest]


def overlap(span, utterance, verdicts):
    # an utterance includes some frames before and after the voice: only frames called voice count
    first, last = (round(second * 1000 / FRAME_MS) for second in (utterance.start, utterance.end))
    return any(verdicts[max(span[0], first):min(span[1], last)])


def noisy(noise, *parts):
    """Return a Call without speech. parts: (seconds, dBFS) of each."""
    values, at = [], 0
    for seconds, level in parts:
        loud, count = dbfs(level), seconds * 8000
        values += [x * loud for x in noise[at:at + count]]
        at += count
    return Call(levels_of(values), [], set())


def scenes(callers, noises):
    """Yield (name, calls) for each row of the table."""
    yield "clean", [caller.call(None) for caller in callers]
    for snr in (20, 15, 10, 5):
        for colour, noise in noises.items():
            yield f"{colour} {snr} dB", [caller.call(noise, snr) for caller in callers]
    pink = noises["pink"]
    for name, noise, options in (
            ("-35 dBFS, clean", None, {"level": -35}),
            ("-35 dBFS, pink 15 dB", pink, {"level": -35}),
            ("-15 dBFS, pink 15 dB", pink, {"level": -15}),
            ("DC 1 %, pink 15 dB", pink, {"offset": 328}),
            ("DTX, pink 15 dB", pink, {"dtx": True})):
        yield name, [caller.call(noise, 15, **options) for caller in callers]
    yield "word at once, pink 20 dB", [one.call(pink, 20, lead=(0, 1))
                                       for caller in callers for one in caller.alone()]
    # phrases run together here: the row shows how much of a long speech is taken for noise
    yield "no pauses, pink 15 dB", [caller.call(pink, 15, pauses=(4, 12)) for caller in callers]
    for level in (-35, -50):
        for colour, noise in noises.items():
            yield f"only {colour}, {level} dBFS", [noisy(noise, (NOISE_SECONDS, level))]


def changes(noises):
    """Yield (name, seconds): for how long a sudden noise or tone is taken for voice."""
    for colour, noise in noises.items():
        call = noisy(noise, (20, -50), (20, -35))
        yield f"{colour} rises by 15 dB", sum(listen(call)[0]) * FRAME_MS / 1000
    tone = [math.sin(2 * math.pi * 425 / 8000 * i) for i in range(80000)]
    yield "a tone of 425 Hz", sum(listen(noisy(tone, (10, -20)))[0]) * FRAME_MS / 1000


def cost(levels):
    """Return how many microseconds one hear() takes."""
    detector, began = VoiceDetector(), time.perf_counter()
    for level in levels:
        detector.feed(level)
    return (time.perf_counter() - began) / len(levels) * 1e6


def main():
    for tool in ("espeak-ng", "sox"):
        if not shutil.which(tool):
            sys.exit(f"bench/vad.py needs {tool}: apt-get install {tool}")
    callers = [Caller(*row) for row in (TUNING if "--tuning" in sys.argv[1:] else TEST)]
    noises = {colour: make_noise(colour) for colour in NOISES}
    form = "{:<26}" + "{:>8}" * 10
    print(form.format("", "hit %", "false %", "cut", "missed", "extra", "lost", "end", "barge",
                      "heard", "alarms"))
    for name, calls in scenes(callers, noises):
        print(form.format(name, *Score(calls).row()), flush=True)
    for name, seconds in changes(noises):
        print(f"{name}: voice for {seconds:.1f} s")
    print(f"hear(): {cost(callers[0].call(noises['pink']).levels * 20):.2f} us a frame")


if __name__ == "__main__":
    main()
