"""Voice: distinguished from noise by its level, and cut into utterances."""

import io
import random
import unittest
import wave

from siprtp.media.vad import FRAME_MS, Utterance, UtteranceCutter, VoiceDetector

SECOND = 1000 // FRAME_MS  # frames
TWICE = 16  # in levels: 6 dB


class Line:
    """Generates levels, the same in every run."""

    def __init__(self):
        self.random = random.Random(7)

    def noise(self, seconds, level, spread=2.5):
        return [self.random.gauss(level, spread) for _ in range(int(seconds * SECOND))]

    def speech(self, seconds, level, floor=30):
        """Syllables of 180 ms, with noise in gaps of 60 ms between them."""
        shape = [-1.5, -0.4, 0, 0.3, 0.4, 0.2, -0.2, -0.6, -1.5, -9, -9, -9]
        levels = [level + TWICE * shape[i % 12] + self.random.gauss(0, 5)
                  for i in range(int(seconds * SECOND))]
        return [max(x, self.random.gauss(floor, 2.5)) for x in levels]


class Detector(unittest.TestCase):
    def setUp(self):
        self.detector, self.line = VoiceDetector(), Line()

    def hear(self, levels):
        """Return the share of frames that are voice."""
        return sum(map(self.detector.feed, levels)) / len(levels)

    def test_a_word_is_voice_from_the_first_frame(self):
        for word in ([75, 100, 110, 110], [16, 95, 110, 110], [0, 60, 110, 110], [90, 115, 115]):
            detector = VoiceDetector()
            self.assertTrue([detector.feed(level) for level in word][-1], word)

    def test_a_word_after_silence_may_be_quieter(self):
        self.hear([16] * SECOND)
        self.assertEqual([self.detector.feed(level) for level in (79, 85, 85)][-1], True)

    def test_a_word_at_once_does_not_hide_the_next(self):
        self.hear(self.line.speech(0.4, 105, 30))
        self.assertGreater(self.hear(self.line.speech(0.6, 70, 30)), 0.8)

    def test_noise_from_the_first_frame_is_no_voice(self):
        for level in (20, 45, 70, 85):
            self.setUp()
            self.assertEqual(self.hear(self.line.noise(20, level)), 0, level)

    def test_noise_that_swings_is_no_voice(self):
        self.assertLess(self.hear(self.line.noise(60, 65, 7)), 0.01)

    def test_noise_louder_than_any_line_is_voice_for_a_second(self):
        self.assertEqual(self.hear(self.line.noise(0.9, 115)), 1)
        self.hear(self.line.noise(0.3, 115))
        self.assertEqual(self.hear(self.line.noise(10, 115)), 0)

    def test_speech_is_distinguished_from_noise_10_db_below(self):
        self.hear(self.line.noise(2, 80))
        for _ in range(5):
            self.assertGreater(self.hear(self.line.speech(1.2, 110, 80)), 0.9)
            self.assertLess(self.hear(self.line.noise(1.5, 80)), 0.1)  # the hangover

    def test_a_quiet_caller_is_voice_on_a_clean_line(self):
        self.hear([16] * SECOND)
        self.hear(self.line.speech(1, 75, 16))
        self.hear([16] * SECOND)
        self.assertGreater(self.hear(self.line.speech(1, 75, 16)), 0.8)

    def test_very_faint_audio_is_no_voice_on_the_cleanest_line(self):
        self.hear([17] * SECOND * 5)
        self.assertEqual(self.hear(self.line.speech(5, 35, 17)), 0)
        self.assertFalse(self.detector.is_loud(45))

    def test_noise_that_rises_by_15_db_is_voice_for_a_second(self):
        self.hear(self.line.noise(5, 50))
        self.assertGreater(self.hear(self.line.noise(0.8, 90)), 0.9)
        self.hear(self.line.noise(0.6, 90))
        self.assertEqual(self.hear(self.line.noise(5, 90)), 0)

    def test_noise_that_rises_and_swings_is_voice_for_a_few_seconds(self):
        self.hear(self.line.noise(5, 50))
        self.hear(self.line.noise(6, 90, 7))
        self.assertLess(self.hear(self.line.noise(20, 90, 7)), 0.02)

    def test_after_the_noise_falls_a_quiet_caller_is_voice(self):
        self.hear(self.line.noise(5, 90))
        self.assertLess(self.hear(self.line.speech(0.1, 80, 90)), 0.1)
        self.hear(self.line.noise(2, 50))
        self.assertGreater(self.hear(self.line.speech(1, 80, 50)), 0.8)

    def test_long_speech_does_not_become_noise(self):
        self.hear(self.line.noise(2, 60))
        first = self.hear(self.line.speech(5, 105, 60))
        self.hear(self.line.speech(50, 105, 60))
        self.assertGreater(first, 0.9)
        self.assertGreater(self.hear(self.line.speech(5, 105, 60)), 0.9)

    def test_silence_between_words_does_not_make_the_noise_voice(self):
        for silence in (0, 16):  # mu-law and A-law
            self.setUp()
            self.hear(self.line.noise(3, 75))
            self.assertEqual(self.hear([silence] * 30 * SECOND), 0)
            self.assertEqual(self.hear(self.line.noise(3, 75)), 0)
            self.assertGreater(self.hear(self.line.speech(1, 110, 75)), 0.9)

    def test_a_tone_is_noise_after_a_second(self):
        self.hear(self.line.noise(2, 40))
        self.hear([120] * 60)
        self.assertEqual(self.hear([120] * 200), 0)

    def test_voice_lasts_60_ms_longer_than_it_is_loud(self):
        self.hear(self.line.noise(3, 60))
        self.hear([100] * 10)
        self.assertEqual([self.detector.feed(20) for _ in range(5)], [True] * 3 + [False] * 2)

    def test_a_single_frame_somewhat_louder_than_the_noise_is_no_voice(self):
        self.hear(self.line.noise(3, 60, 1))
        self.assertEqual(self.hear([60, 70, 60, 60]), 0)
        self.assertEqual(self.hear([70, 70, 70, 70]), 0.75)

    def test_frames_above_the_noise_are_loud_from_the_first_one(self):
        self.assertTrue(self.detector.is_loud(110))
        self.assertFalse(self.detector.is_loud(50))
        self.hear(self.line.noise(5, 60))
        self.assertTrue(self.detector.is_loud(75))
        self.hear(self.line.noise(5, 80))
        self.assertFalse(self.detector.is_loud(75))
        self.assertLess(sum(map(self.detector.is_loud, self.line.noise(20, 80))), 3)

    def test_asking_for_loud_frames_changes_nothing(self):
        other, levels = VoiceDetector(), self.line.speech(9, 90, 70)
        for level in levels:
            self.detector.is_loud(level + 30)
            self.assertEqual(self.detector.feed(level), other.feed(level))
        self.assertEqual(self.detector.threshold, other.threshold)


class Cutter(unittest.TestCase):
    def setUp(self):
        self.cutter, self.number = UtteranceCutter(), 0

    def feed(self, *parts):
        """Feed numbered frames, given as (voiced, count); return the utterances."""
        cut = []
        for voiced, count in parts:
            for _ in range(count):
                cut.append(self.cutter.feed(self.number.to_bytes(2, "big") * 160, voiced))
                self.number += 1
        return [utterance for utterance in cut if utterance]

    def frames(self, utterance):
        """Return the numbers of the frames of an utterance."""
        self.assertEqual(len(utterance.pcm) % 320, 0)
        return [int.from_bytes(utterance.pcm[i:i + 2], "big")
                for i in range(0, len(utterance.pcm), 320)]

    def test_an_utterance_is_the_voice_and_a_little_around_it(self):
        said, = self.feed((False, 50), (True, 20), (False, 100))
        self.assertEqual(self.frames(said), list(range(50 - 12, 70 + 10)))
        self.assertEqual((said.start, said.end, said.rate), (0.76, 1.6, 8000))

    def test_an_utterance_ends_after_640_ms_of_silence(self):
        self.assertEqual(self.feed((False, 50), (True, 20), (False, 31)), [])
        self.assertEqual(len(self.feed((False, 1))), 1)
        self.assertEqual(self.feed((False, 1000)), [])

    def test_a_shorter_pause_is_part_of_it(self):
        said, = self.feed((False, 50), (True, 20), (False, 31), (True, 5), (False, 32))
        self.assertEqual((said.start, said.end), (0.76, 2.32))

    def test_voice_at_the_answer_begins_at_0(self):
        said, = self.feed((True, 20), (False, 50))
        self.assertEqual((said.start, self.frames(said)[0]), (0, 0))

    def test_a_click_is_no_utterance(self):
        self.assertEqual(self.feed((False, 50), (True, 7), (False, 100)), [])
        self.assertEqual(len(self.feed((True, 8), (False, 100))), 1)

    def test_a_click_is_part_of_the_time_before_the_next_voice(self):
        self.cutter = UtteranceCutter(before=800)
        said, = self.feed((False, 50), (True, 2), (False, 34), (True, 20), (False, 50))
        self.assertEqual(self.frames(said)[0], 86 - 40)

    def test_no_frame_is_in_two_utterances(self):
        self.cutter = UtteranceCutter(before=400, after=400, silence=500)
        first, second = self.feed((False, 50), (True, 20), (False, 27), (True, 20), (False, 50))
        self.assertEqual(self.frames(first)[-1], 69 + 20)
        self.assertEqual(self.frames(second)[0], 69 + 21)

    def test_a_long_utterance_is_cut_without_a_gap(self):
        self.cutter = UtteranceCutter(longest=2000)
        cut = self.feed((False, 12), (True, 250), (False, 50))
        self.assertEqual([len(self.frames(each)) for each in cut], [100, 100, 72])
        self.assertEqual([n for each in cut for n in self.frames(each)], list(range(272)))
        self.assertEqual([each.start for each in cut], [0, 2, 4])

    def test_the_end_of_the_call_ends_the_utterance(self):
        self.feed((False, 50), (True, 20), (False, 3))
        said = self.cutter.finish()
        self.assertEqual((said.start, said.end), (0.76, 1.46))
        self.assertIsNone(self.cutter.finish())

    def test_a_call_that_ends_in_silence_has_no_further_utterance(self):
        for parts in ([], [(False, 50)], [(False, 50), (True, 3)]):
            self.setUp()
            self.feed(*parts)
            self.assertIsNone(self.cutter.finish(), parts)

    def test_limits_are_milliseconds(self):
        self.cutter = UtteranceCutter(rate=16000, silence=100, shortest=40, before=20, after=60)
        said, = self.feed((False, 50), (True, 2), (False, 5))
        self.assertEqual((said.start, said.end, said.rate), (0.98, 1.1, 16000))


class Wav(unittest.TestCase):
    def test_the_bytes_are_a_wav_file(self):
        for rate in (8000, 16000):
            pcm = bytes(range(256)) * 5
            with wave.open(io.BytesIO(Utterance(pcm, 1.0, 1.08, rate).wav())) as file:
                self.assertEqual(file.getparams()[:4], (1, 2, rate, 640))
                self.assertEqual(file.readframes(999), pcm)


if __name__ == "__main__":
    unittest.main()
