"""G.722: the same bits as another implementation, and the quality of the decoded audio."""

import hashlib
import math
import unittest

from siprtp import formats
from siprtp.media import codec
from siprtp.media.g722 import Decoder, Encoder
from tests.test_codec import pcm_of, samples_of

FRAME = 320  # samples, 20 ms
DELAY = 22  # samples, caused by the filters of both sides


def noise(count, seed=1):
    """Return pseudo-random bytes, the same on every machine."""
    values = bytearray()
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % (1 << 31)
        values.append(seed >> 16 & 255)
    return bytes(values)


def runs():
    """Return long runs of equal bytes, which drive the predictors to their limits."""
    return b"".join(bytes([byte]) * count for byte, count in zip(noise(150, 2), noise(150, 3)))


def sweep():
    """Return 0.5 s of PCM: noisy triangle waves that get faster and louder until they clip."""
    samples, phase = [], 0
    for i, random in enumerate(noise(8000)):
        phase = (phase + i // 8) % 2000
        samples.append((abs(phase - 1000) - 500) * i // 100 + random - 128)
    return pcm_of([max(-32768, min(32767, sample)) for sample in samples])


def sine(hz, seconds=0.2, amplitude=10000):
    return pcm_of([round(amplitude * math.sin(2 * math.pi * hz * i / 16000))
                   for i in range(round(16000 * seconds))])


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def signal_to_noise(pcm, decoded):
    """Return dB, over the last 0.1 s: by then the scales have adapted."""
    samples, decoded = samples_of(pcm)[:-DELAY], samples_of(decoded)
    pairs = list(zip(samples[-1600:], decoded[-1600:]))
    return 10 * math.log10(sum(a * a for a, _ in pairs) / sum((a - b) ** 2 for a, b in pairs))


class G722(unittest.TestCase):
    """The digests are of the output of ffmpeg 5.1 (-c:a g722 and its decoder) for this input."""

    def test_the_encoder_makes_the_same_bits_as_ffmpeg(self):
        self.assertEqual(digest(sweep()), "931ef276db3b603b")
        self.assertEqual(digest(Encoder()(sweep())), "40e4cfdbefa9d06e")

    def test_the_decoder_makes_the_same_samples_as_ffmpeg(self):
        self.assertEqual(digest(Decoder()(Encoder()(sweep()))), "9817d4baba513d24")

    def test_arbitrary_bytes_decode_to_the_same_samples_as_in_ffmpeg(self):
        self.assertEqual(digest(Decoder()(noise(4000))), "7561863f7d4a47b0")
        self.assertEqual(digest(Decoder()(runs())), "084a9a18a90827ee")

    def test_audio_in_frames_gives_the_same_as_in_one_piece(self):
        pcm, encoder, decoder = sweep(), Encoder(), Decoder()
        frames = [pcm[at:at + 2 * FRAME] for at in range(0, len(pcm), 2 * FRAME)]
        payloads = [encoder(frame) for frame in frames]
        self.assertEqual({len(payload) for payload in payloads}, {FRAME // 2})
        self.assertEqual(b"".join(payloads), Encoder()(pcm))
        self.assertEqual(b"".join(map(decoder, payloads)), Decoder()(b"".join(payloads)))

    def test_tones_of_both_bands_come_back(self):
        for hz, least in ((300, 55), (1000, 45), (3000, 38), (5000, 20), (7000, 20)):
            pcm = sine(hz)
            self.assertGreater(signal_to_noise(pcm, Decoder()(Encoder()(pcm))), least, hz)

    def test_silence_stays_silent(self):
        decoded = samples_of(Decoder()(Encoder()(bytes(2 * 8000))))
        self.assertLess(max(map(abs, decoded)), 10)

    def test_silence_after_the_loudest_sound_is_soon_silent(self):
        pcm = pcm_of([32767, 32767, -32768, -32768] * 400) + bytes(2 * 8000)
        decoded = samples_of(Decoder()(Encoder()(pcm)))
        self.assertLess(max(map(abs, decoded[-4000:])), 10)

    def test_any_bytes_decode_to_two_samples_each(self):
        for payload in (b"", b"\x00", b"\xff" * 4000, b"\x00" * 4000, b"\x20\xe0" * 2000,
                        b"\x04" * 3000 + b"\x84\x24" * 500, bytes(range(256)) * 16):
            self.assertEqual(len(Decoder()(payload)), 4 * len(payload))

    def test_the_decoder_recovers_from_a_lost_frame(self):
        pcm, decoder = sine(700, 1.0), Decoder()
        payload = Encoder()(pcm)
        decoded = decoder(payload[:2000]) + decoder(payload[2160:])
        self.assertGreater(signal_to_noise(pcm, decoded), 45)

    def test_an_odd_number_of_samples_raises_value_error(self):
        for size in (1, 2, 3, 638):
            with self.assertRaisesRegex(ValueError, f"not {size} bytes"):
                Encoder()(bytes(size))

    def test_every_call_has_an_encoder_of_its_own(self):
        row = codec.CODECS["G722"]
        wire = formats.BY_NAME["G722"]
        self.assertEqual((wire.rate, wire.payload_type, row.sample_rate), (8000, 9, 16000))
        self.assertIsNot(row.encoder(), row.encoder())
        self.assertIsNot(row.decoder(), row.decoder())


if __name__ == "__main__":
    unittest.main()
