"""G.711 against the tables of the standard, loudness, and what a change of rate does to tones."""

import bisect
import math
import random
import struct
import unittest
import warnings

from siprtp.formats import BY_NAME, DEFAULT
from siprtp.media import codec
from siprtp.media.codec import decode_pcma, decode_pcmu, encode_pcma, encode_pcmu
from siprtp.media.resample import Resampler, mix_stereo, resample, weigh_few, weigh_many

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop
except ImportError:  # Python 3.13
    audioop = None

SAMPLES = range(-32768, 32768)
ALL_PCM = struct.pack("<65536h", *SAMPLES)
ALL_CODES = bytes(range(256))
FROM_8000 = ((8000, 16000), (8000, 22050), (8000, 24000), (8000, 48000))
TO_8000 = ((16000, 8000), (22050, 8000), (24000, 8000), (48000, 8000))


def samples_of(pcm):
    return struct.unpack(f"<{len(pcm) // 2}h", pcm)


def pcm_of(samples):
    return struct.pack(f"<{len(samples)}h", *samples)


def decision_values(ends, intervals, scale):
    """Return the lower ends of the intervals of positive samples, in 16-bit PCM.

    ends: "value at segment end points" of the standard's table; intervals: how many lie between.
    """
    values = []
    for low, high, count in zip(ends, ends[1:], intervals):
        values += [scale * (low + (high - low) * i // count) for i in range(count)]
    return [*values, scale * ends[-1]]


# ITU-T G.711 table 1a, of 13 bits, and its output values y = (x[n] + x[n + 1]) / 2
A_DECISIONS = decision_values((0, 64, 128, 256, 512, 1024, 2048, 4096), (32,) + (16,) * 6, 8)
A_VALUES = [(low + high) // 2 for low, high in zip(A_DECISIONS, A_DECISIONS[1:])]
A_CODES = [(0x80 + n) ^ 0x55 for n in range(128)]
# table 2a, of 14 bits: the first interval is one wide and stands for 0
MU_DECISIONS = decision_values((0, 1, 31, 95, 223, 479, 991, 2015, 4063, 8159),
                               (1, 15) + (16,) * 7, 4)
MU_VALUES = [0] + [(low + high) // 2 for low, high in zip(MU_DECISIONS[1:], MU_DECISIONS[2:])]
MU_CODES = [0xFF - n for n in range(128)]
LAWS = {
    "PCMA": (decode_pcma, encode_pcma, A_DECISIONS, A_VALUES, A_CODES),
    "PCMU": (decode_pcmu, encode_pcmu, MU_DECISIONS, MU_VALUES, MU_CODES),
}


class G711(unittest.TestCase):
    def test_the_tables_here_are_those_of_the_standard(self):
        self.assertEqual((len(A_DECISIONS), len(MU_DECISIONS)), (129, 129))
        self.assertEqual([value // 8 for value in A_VALUES[::16]],
                         [1, 33, 66, 132, 264, 528, 1056, 2112])
        self.assertEqual(A_VALUES[-1], 4032 * 8)
        self.assertEqual([value // 4 for value in MU_VALUES[::16]],
                         [0, 33, 99, 231, 495, 1023, 2079, 4191])
        self.assertEqual(MU_VALUES[-1], 8031 * 4)

    def test_all_256_codes_decode_to_the_output_values_of_the_standard(self):
        for name, (decode, _, _, values, codes) in LAWS.items():
            decoded = dict(zip(ALL_CODES, samples_of(decode(ALL_CODES))))
            self.assertEqual([decoded[code] for code in codes], values, name)
            self.assertEqual([decoded[code ^ 0x80] for code in codes],
                             [-value for value in values], name)

    def test_all_65536_samples_get_the_code_between_whose_decision_values_they_lie(self):
        # on a decision value, positive samples go up and negative ones towards zero: ITU-T G.191
        for name, (_, encode, decisions, _, codes) in LAWS.items():
            positive = [codes[min(bisect.bisect_right(decisions, x), 128) - 1]
                        for x in range(32768)]
            expected = bytes([positive[~x] ^ 0x80 if x < 0 else positive[x] for x in SAMPLES])
            self.assertEqual(encode(ALL_PCM), expected, name)

    def test_decoded_codes_encode_to_themselves_but_for_the_negative_zero_of_mu_law(self):
        self.assertEqual(encode_pcma(decode_pcma(ALL_CODES)), ALL_CODES)
        self.assertEqual(encode_pcmu(decode_pcmu(ALL_CODES)), ALL_CODES.replace(b"\x7f", b"\xff"))

    @unittest.skipUnless(audioop, "needs Python 3.12 or earlier")
    def test_audioop_agrees_but_on_negative_samples_of_mu_law_which_it_rounds_first(self):
        self.assertEqual(decode_pcma(ALL_CODES), audioop.alaw2lin(ALL_CODES, 2))
        self.assertEqual(decode_pcmu(ALL_CODES), audioop.ulaw2lin(ALL_CODES, 2))
        self.assertEqual(encode_pcma(ALL_PCM), audioop.lin2alaw(ALL_PCM, 2))
        self.assertEqual(encode_pcmu(ALL_PCM)[32768:], audioop.lin2ulaw(ALL_PCM, 2)[32768:])

    def test_silence_is_the_code_each_law_has_for_it(self):
        self.assertEqual((encode_pcma(bytes(4)), encode_pcmu(bytes(4))), (b"\xd5\xd5", b"\xff\xff"))

    def test_no_samples_and_one_are_coded_too(self):
        for decode, encode, *_ in LAWS.values():
            self.assertEqual((encode(b""), decode(b"")), (b"", b""))
            self.assertEqual(encode(b"\xff\x7f"), encode(bytearray(ALL_PCM))[-1:])

    def test_half_a_sample_raises_value_error(self):
        for function in (encode_pcma, encode_pcmu, codec.loudness):
            with self.assertRaisesRegex(ValueError, "even number of bytes, not 3"):
                function(b"abc")


class Rows(unittest.TestCase):
    def test_a_call_encodes_and_decodes_with_its_row_alone(self):
        pcm = pcm_of([round(9000 * math.sin(i / 5)) for i in range(320)])
        for name, row in codec.CODECS.items():
            with self.subTest(name):
                payload = row.encoder()(pcm)
                self.assertEqual(len(payload), 320 * BY_NAME[name].rate // row.sample_rate)
                self.assertEqual(len(row.decoder()(payload)), len(pcm))

    def test_g711_is_what_is_offered(self):
        self.assertEqual([(c.name, c.payload_type) for c in DEFAULT],
                         [("PCMA", 8), ("PCMU", 0)])


class Loudness(unittest.TestCase):
    def test_a_code_is_as_loud_as_its_sample(self):
        for row in (codec.CODECS[c.name] for c in DEFAULT):
            for code, value in zip(ALL_CODES, samples_of(row.decoder()(ALL_CODES))):
                self.assertEqual(row.loudness(bytes([code])),
                                 round(16 * math.log2(1 + abs(value) / 8)))

    def test_silence_is_zero_and_the_loudest_is_192(self):
        self.assertEqual(codec.loudness(b""), 0)
        self.assertEqual(codec.loudness(bytes(320)), 0)
        self.assertEqual(codec.loudness(b"\x00\x80" * 160), 192)

    def test_twice_the_amplitude_is_16_more(self):
        sine = [math.sin(i * math.pi / 80) for i in range(160)]
        levels = [codec.loudness(pcm_of([round(a * s) for s in sine])) for a in (8000, 16000)]
        self.assertAlmostEqual(levels[1] - levels[0], 16, delta=0.5)

    def test_payloads_are_as_loud_as_their_pcm(self):
        pcm = pcm_of([round(3000 * math.sin(i / 3)) for i in range(160)])
        for row in (codec.CODECS[c.name] for c in DEFAULT):
            payload = row.encoder()(pcm)
            self.assertAlmostEqual(row.loudness(payload), codec.loudness(pcm), delta=1)


def tone(hz, rate, seconds=0.06, amplitude=16000):
    return pcm_of([round(amplitude * math.sin(2 * math.pi * hz * i / rate))
                   for i in range(round(rate * seconds))])


def decibels(ratio):
    return 20 * math.log10(max(ratio, 1e-6))


def heard(pcm, hz, rate):
    """Return (tone, rest) in dB below what was sent: what is at hz, and all that is elsewhere.

    Both in the middle 20 ms, which have whole periods of any multiple of 50 Hz.
    """
    samples = samples_of(pcm)[rate // 50:rate // 50 * 2]
    angles = [2 * math.pi * hz * i / rate for i in range(len(samples))]
    a = 2 / len(samples) * sum(s * math.cos(x) for s, x in zip(samples, angles))
    b = 2 / len(samples) * sum(s * math.sin(x) for s, x in zip(samples, angles))
    rest = sum((s - a * math.cos(x) - b * math.sin(x)) ** 2 for s, x in zip(samples, angles))
    return (decibels(math.hypot(a, b) / 16000),
            decibels(math.sqrt(2 * rest / len(samples)) / 16000))


class Resampling(unittest.TestCase):
    def test_speech_passes_within_half_a_decibel_and_60_above_all_else(self):
        for rates in FROM_8000 + TO_8000 + ((24000, 16000), (16000, 24000)):
            for hz in (50, 300, 1000, 2500, 3400):
                with self.subTest(rates=rates, hz=hz):
                    level, rest = heard(resample(tone(hz, rates[0]), *rates), hz, rates[1])
                    self.assertAlmostEqual(level, 0, delta=0.1)
                    self.assertLess(rest, -60)

    def test_what_would_alias_is_60_decibels_down_above_4600_hz(self):
        for rates in TO_8000:
            for hz in (4600, 4700, 5000, 6000, 7400, 7950, 9000, 10950, 16000, 23000):
                if hz < rates[0] / 2:
                    with self.subTest(rates=rates, hz=hz):
                        pcm = resample(tone(hz, rates[0]), *rates)
                        self.assertLess(max(heard(pcm, 8000 - hz % 8000, 8000)), -60)

    def test_what_would_alias_is_47_decibels_down_above_4300_hz(self):
        for rates in TO_8000:
            for hz, least in ((4200, -30), (4300, -47), (4450, -47)):
                with self.subTest(rates=rates, hz=hz):
                    pcm = resample(tone(hz, rates[0]), *rates)
                    self.assertLess(max(heard(pcm, 8000 - hz, 8000)), least)

    def test_the_output_is_in_time_and_as_long_as_the_input(self):
        for rates in FROM_8000 + TO_8000:
            got, want = (samples_of(pcm) for pcm in (
                resample(tone(700, rates[0]), *rates), tone(700, rates[1])))
            self.assertEqual(len(got), len(want))
            middle = slice(len(got) // 4, len(got) * 3 // 4)
            self.assertLess(max(abs(a - b) for a, b in zip(got[middle], want[middle])), 30, rates)

    def test_any_number_of_samples_gives_the_rounded_number(self):
        for rates in ((22050, 8000), (8000, 22050), (24000, 8000), (8000, 24000)):
            for samples in (0, 1, 2, 7, 159, 160, 441, 1000):
                self.assertEqual(len(resample(bytes(2 * samples), *rates)),
                                 2 * round(samples * rates[1] / rates[0]), (rates, samples))

    def test_chunks_of_any_size_give_what_the_whole_gives(self):
        rng = random.Random(1)
        pcm = pcm_of([rng.randrange(-20000, 20000) for _ in range(1500)])
        for rates in (*FROM_8000, *TO_8000, (44100, 48000), (8000, 8000)):
            resampler, whole = Resampler(*rates), resample(pcm, *rates)
            for most in (1, 7, 321, 5000):  # the same resampler: flush begins anew
                at, out = 0, b""
                while at < len(pcm):
                    size = rng.randint(0, most)
                    out += resampler.feed(pcm[at:at + size])
                    at += size
                self.assertEqual(out + resampler.flush(), whole, (rates, most))

    def test_many_at_once_are_the_same_as_one_by_one(self):
        rng = random.Random(2)
        for rates in (*FROM_8000, *TO_8000):
            resampler = Resampler(*rates)
            for loud in (300, 32767):  # overshoots are cut off in both ways
                window = pcm_of([rng.choice((-loud, loud - 1, rng.randrange(-loud, loud)))
                                 for _ in range(3000)])
                spare = 3000 - 2 * resampler._reach
                end = spare * rates[1] // rates[0]
                for first in (0, 1, min(5, resampler._up - 1)):
                    arguments = window, resampler._cycle, resampler._down, first, end
                    self.assertEqual(weigh_many(*arguments), weigh_few(*arguments), rates)

    def test_stereo_is_mixed_to_its_mean(self):
        rng = random.Random(3)
        pairs = [(-32768, -32768), (32767, 32767), (-1, 0), (0, 1), (-32768, 32767)]
        pairs += [(rng.randrange(-32768, 32768), rng.randrange(-32768, 32768))
                  for _ in range(1000)]
        self.assertEqual(mix_stereo(pcm_of([sample for pair in pairs for sample in pair])),
                         pcm_of([sum(pair) // 2 for pair in pairs]))
        self.assertEqual(mix_stereo(b""), b"")

    def test_feed_holds_back_less_than_2_ms(self):
        for rates in FROM_8000 + TO_8000:
            given = len(Resampler(*rates).feed(bytes(rates[0] // 50 * 2)))
            self.assertGreaterEqual(given / 2, rates[1] * 0.018 - 1, rates)

    def test_too_loud_is_clipped(self):
        square = pcm_of(([32767] * 20 + [-32768] * 20) * 10)
        for rates in ((8000, 16000), (16000, 8000)):
            samples = samples_of(resample(square, *rates))
            self.assertEqual((min(samples), max(samples)), (-32768, 32767))

    def test_a_steady_level_stays_to_the_unit(self):
        for rates in FROM_8000 + TO_8000:
            samples = samples_of(resample(pcm_of([1000] * 1000), *rates))
            self.assertEqual(set(samples[len(samples) // 4:-len(samples) // 4]), {1000}, rates)

    def test_all_usual_rates_go_to_each_other(self):
        rates = (8000, 16000, 22050, 24000, 44100, 48000)
        for pair in ((a, b) for a in rates for b in rates):
            self.assertEqual(len(resample(bytes(882), *pair)), 2 * round(441 * pair[1] / pair[0]))

    def test_the_same_rate_passes_through(self):
        self.assertEqual(resample(ALL_PCM, 8000, 8000), ALL_PCM)
        resampler = Resampler(16000, 16000)
        self.assertEqual((resampler.feed(b"abc"), resampler.feed(b"d"), resampler.flush()),
                         (b"ab", b"cd", b""))

    def test_rates_that_make_no_sense_raise_value_error(self):
        for rates in ((0, 8000), (8000, -1), (8000.0, 8000), ("8000", 8000), (None, 8000),
                      (True, 8000), (7999, 8000), (8000, 1)):
            with self.subTest(rates), self.assertRaises(ValueError):
                Resampler(*rates)

    def test_half_a_sample_at_the_end_raises_value_error_only_in_the_whole(self):
        with self.assertRaises(ValueError):
            resample(b"abc", 16000, 8000)
        resampler = Resampler(16000, 8000)
        self.assertEqual(len(resampler.feed(b"abcde") + resampler.flush()), 2)


if __name__ == "__main__":
    unittest.main()
