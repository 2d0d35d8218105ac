"""The jitter buffer on simulated networks, tick by tick, and the concealment of gaps."""

import itertools
import random
import struct
import unittest

from siprtp.media.jitter import MADE_UP, MAX_AHEAD, Concealer, JitterBuffer
from siprtp.media.thread import MAX_BEHIND

SLOT = 80  # bytes and timestamp units in 10 ms
NUMBERED = struct.Struct(f"!I{SLOT - 4}x")  # 10 ms that carry the number of their slot
START = 2 ** 32 - 200  # timestamp of the first slot: timestamps wrap in every test


def audio(first, slots=2):
    """Return 10 ms for each slot; each of its bytes is the number of the slot."""
    return b"".join(bytes([slot & 255]) * SLOT for slot in range(first, first + slots))


def network(seed, seconds, jitter=0.0, lost=0.0, repeated=0.0, delayed=0.0, drift=0.0, slots=2):
    """Return [(arrival in s, first slot)] of packets sent every `slots`, in order of arrival.

    jitter: s, uniform. delayed: the share that takes 25 ms more. drift: of the sender's clock.
    """
    rng, arrivals = random.Random(seed), []
    for slot in range(0, int(seconds * 100), slots):
        sent = slot / 100 * (1 + drift)
        late = rng.random() * jitter + (rng.random() < delayed) * 0.025
        if rng.random() >= lost:
            arrivals.append((sent + late, slot))
            if rng.random() < repeated:
                arrivals.append((sent + late + rng.random() * 0.030, slot))
    return sorted(arrivals)


class OnTicks(unittest.TestCase):
    def setUp(self):
        self.buffer = JitterBuffer()

    def put(self, *firsts, slots=2, ssrc=7, start=START):
        return [self.buffer.put(ssrc, start + SLOT * first & 0xFFFFFFFF, audio(first, slots))
                for first in firsts]

    def pop(self, ticks=1):
        """Return the first byte of each half of every popped frame, or None for a gap."""
        popped = [self.buffer.pop() for _ in range(ticks)]
        for payload in popped:
            self.assertEqual(len(payload or bytes(160)), 160)
        return [payload and (payload[0], payload[SLOT]) for payload in popped]

    def play(self, first, packets=1):
        """Put packets of 20 ms, each just before its tick; return the popped frames."""
        return [heard for slot in range(first, first + 2 * packets, 2)
                for heard in (self.put(slot), self.pop())[1]]

    def run_on(self, arrivals, seconds, slots=2, phase=0.001):
        """Return [(tick in s, the slots of both halves or None)] of the buffer on a network."""
        arrivals, heard = iter(arrivals + [(1e9, 0)]), []
        due, slot = next(arrivals)
        for number in range(int(seconds * 50)):
            tick = phase + number / 50
            while due <= tick:
                payload = b"".join(map(NUMBERED.pack, range(slot, slot + slots)))
                self.buffer.put(7, START + SLOT * slot & 0xFFFFFFFF, payload)
                due, slot = next(arrivals)
            payload = self.buffer.pop()
            heard.append((tick, payload and NUMBERED.unpack_from(payload)
                          + NUMBERED.unpack_from(payload, SLOT)))
        return heard


class Order(OnTicks):
    def test_the_first_packet_is_popped_at_the_next_tick_and_nothing_before(self):
        self.assertEqual(self.pop(3), [None] * 3)
        self.assertEqual(self.play(0, 4), [(0, 1), (2, 3), (4, 5), (6, 7)])

    def test_packets_of_any_length_are_played_as_soon_as_they_arrive(self):
        for slots in (1, 2, 3, 4, 6):
            with self.subTest(ms=slots * 10):
                self.setUp()
                heard = self.run_on(network(0, 6, slots=slots), 6, slots)
                at, (slot, other) = heard[-1]
                self.assertLessEqual(at - slot / 100, 0.0211)
                self.assertEqual(other, slot + 1)
                gaps = sum(1 for _, slots in heard if slots is None or slots[0] == slots[1])
                self.assertLessEqual(gaps, 1)  # until the first packet has set the play time

    def test_reordered_packets_are_put_in_order(self):
        self.assertEqual(self.put(4, 0, 6, 2), [True] * 4)
        self.assertEqual(self.pop(5), [(0, 1), (2, 3), (4, 5), (6, 7), None])

    def test_put_returns_false_for_a_repeat_which_changes_nothing(self):
        self.put(0, 2, 4)
        self.assertEqual(self.put(4, 2, 0), [False] * 3)
        self.assertEqual(self.pop(), [(0, 1)])
        self.assertEqual(self.put(0), [False])
        self.assertEqual(self.pop(3), [(2, 3), (4, 5), None])
        self.assertEqual(self.put(4, 2), [False] * 2)
        self.assertEqual(self.pop(), [None])
        self.put(10, 12)
        self.assertEqual(self.pop(2), [(10, 11), (12, 13)])  # a repeat delays nothing

    def test_the_missing_half_is_played_when_it_arrives_late(self):
        self.put(0, slots=3)
        self.assertEqual(self.pop(2), [(0, 1), (2, 2)])
        self.put(3, slots=3)
        self.assertEqual(self.pop(2), [(3, 4), (5, 5)])

    def test_the_rest_of_a_packet_played_in_part_is_played(self):
        self.put(0, slots=3)
        self.pop(2)
        self.assertEqual(self.put(1, slots=4), [True])  # 1 and 2 were played
        self.assertEqual(self.pop(2), [(3, 4), None])


def codes(start, end):
    """Return a payload in which each byte tells its position, for positions up to 251."""
    return bytes(position % 251 for position in range(start, end))


def sent(*sizes, seconds=3.0):
    """Return [(arrival, start, payload)] of packets of these sizes in turn, on an even network.

    arrival: in bytes of the stream, as a packet is sent when its audio is complete.
    """
    found, start = [], 0
    for size in itertools.cycle(sizes):
        if start > seconds * 8000:
            return found
        found.append((start + size, start, codes(start, start + size)))
        start += size
    return found


class Sizes(unittest.TestCase):
    """Packets of any size: bytes are played by their timestamps."""

    def setUp(self):
        self.buffer = JitterBuffer()

    def put(self, start, end):
        return self.buffer.put(7, START + start & 0xFFFFFFFF, codes(start, end))

    def run_on(self, packets, phase=8):
        """Return the frames popped every 160 bytes of time, until all packets have arrived."""
        packets, frames, now = sorted(packets), [], phase
        while packets:
            while packets and packets[0][0] <= now:
                _, start, payload = packets.pop(0)
                self.buffer.put(7, START + start & 0xFFFFFFFF, payload)
            frames.append(self.buffer.pop())
            now += 160
        return frames[:-1]  # the last may be no whole one

    def assert_complete(self, frames, settled=16):
        """Assert that from a frame on, what was sent is played once, in order and without a gap."""
        frames = frames[settled:]
        self.assertNotIn(None, frames)
        heard = b"".join(frames)
        at = codes(0, 251).index(heard[0])
        self.assertTrue(heard == codes(at, at + len(heard)), "not in order")

    def test_packets_of_any_size_are_played_whole_and_in_order(self):
        for size in (1, 8, 40, 80, 100, 120, 200, 240, 480, 1024, 2000):
            for phase in (0, 1, 8, 80, 159):
                with self.subTest(bytes=size, phase=phase):
                    self.setUp()
                    self.assert_complete(self.run_on(sent(size), phase), 8 + 4 * size // 160)

    def test_to_settle_a_steady_stream_waits_for_20_ms_at_most(self):
        for size in (7, 33, 40, 100, 120, 159, 161, 200, 333, 1024):
            for phase in (0, 8, 80, 159):
                with self.subTest(bytes=size, phase=phase):
                    self.setUp()
                    packets = sent(size, seconds=8.0)
                    frames = self.run_on(packets, phase)
                    while frames[0] is None:
                        del frames[0]  # before the first packet
                    played = packets[-1][0] - len(self.buffer._audio)
                    filled = 160 * (len(frames) + 1) - played
                    self.assertTrue(0 <= filled <= 160, filled)

    def test_sizes_may_be_mixed_and_change(self):
        for sizes in ((100, 160), (40, 200), (1024, 120), (161, 7, 320)):
            with self.subTest(sizes=sizes):
                self.setUp()
                self.assert_complete(self.run_on(sent(*sizes)), 64)
        first, then = sent(160, seconds=1.0), sent(200, seconds=5.0)
        self.setUp()
        change = len(first) * 160
        packets = first + [(at, start, payload) for at, start, payload in then if start >= change]
        packets.append((change + 200, change, codes(change, change + 200)))
        self.assert_complete(self.run_on(packets)[1:50], 0)
        self.setUp()
        self.assert_complete(self.run_on(packets), 60)

    def test_packets_that_overlap_give_each_byte_once(self):
        self.assertTrue(self.put(0, 200))
        self.assertTrue(self.put(100, 300))
        self.assertFalse(self.put(50, 290))
        self.assertTrue(self.put(400, 480))
        self.assertTrue(self.put(200, 480))  # and fills a hole
        self.assertEqual(b"".join(self.buffer.pop() for _ in range(3)), codes(0, 480))
        self.assertIsNone(self.buffer.pop())

    def test_a_byte_that_arrived_first_stays(self):
        self.put(0, 100)
        self.buffer.put(7, START, b"x" * 160)
        self.assertEqual(self.buffer.pop(), codes(0, 100) + b"x" * 60)

    def test_a_gap_is_filled_only_where_it_is_with_the_audio_before_it(self):
        self.put(0, 200)
        self.put(240, 480)
        self.assertEqual(self.buffer.pop(), codes(0, 160))
        self.assertEqual(self.buffer.pop(), codes(160, 200) + codes(160, 200) + codes(240, 320))
        self.assertEqual(self.buffer.pop(), codes(320, 480))
        self.put(500, 640)
        self.assertEqual(self.buffer.pop(), codes(460, 480) + codes(500, 640))

    def test_after_a_pause_a_gap_is_filled_with_the_audio_behind_it(self):
        self.put(0, 160)
        self.buffer.pop()
        self.assertIsNone(self.buffer.pop())
        self.put(400, 480)
        self.assertEqual(self.buffer.pop(), codes(400, 480) * 2)

    def test_the_end_of_a_stream_is_played_though_it_is_no_whole_frame(self):
        self.put(0, 199)
        self.assertEqual(self.buffer.pop(), codes(0, 160))
        self.assertEqual(self.buffer.pop(), codes(160, 199) + codes(78, 199))
        self.assertIsNone(self.buffer.pop())

    def test_one_byte_alone_fills_a_frame(self):
        for start in (0, 100, 159):
            self.setUp()
            self.put(-160, 0)
            self.buffer.pop()
            self.buffer.pop()
            self.put(start + 160, start + 161)
            self.assertEqual(self.buffer.pop(), codes(start + 160, start + 161) * 160)

    def test_a_part_that_is_late_is_played(self):
        self.put(0, 200)
        self.buffer.pop()
        self.buffer.pop()
        self.assertTrue(self.put(240, 480))  # 5 ms are lost
        self.assertEqual(self.buffer.pop(), codes(240, 400))
        self.assertEqual(self.buffer.pop()[:80], codes(400, 480))
        self.assertTrue(self.put(480, 681))  # a whole frame later, which goes on as the fill did
        self.assertEqual(self.buffer.pop(), codes(480, 640))
        self.buffer.pop()
        self.assertTrue(self.put(681, 1000))
        self.assertEqual((self.buffer.pop() + self.buffer.pop())[41:], codes(681, 960))

    def test_an_odd_pause_in_the_timestamps_keeps_the_order(self):
        for start in (0, 160, 320 + 39, 480 + 39, 800 - 39, 960 - 39):
            self.put(start, start + 160)
        heard = [self.buffer.pop() for _ in range(7)]
        self.assertEqual(heard[2][39:] + heard[3] + heard[4][:39], codes(359, 679))
        self.assertEqual(heard[4][-39:] + heard[5] + heard[6][:121], codes(761, 1081))

    def test_a_thousand_packets_of_one_byte_are_heard(self):
        order = list(range(1000))
        random.Random(1).shuffle(order)
        for position in order:
            self.put(position, position + 1)
        self.assertLess(len(self.buffer._audio), MAX_AHEAD + 2048)
        self.assertEqual(b"".join(self.buffer.pop() for _ in range(6)), codes(0, 960))


class Delay(OnTicks):
    def test_a_late_packet_is_played_and_delays_later_audio(self):
        self.play(0)
        self.assertEqual(self.pop(3), [None] * 3)
        self.put(2, 4, 6)
        self.assertEqual([self.pop()[0], *self.play(8, 3)], [(2, 3), (4, 5), (6, 7), (8, 9)])

    def test_a_packet_later_than_its_successor_is_dropped_but_delays_by_a_tick(self):
        self.play(0)
        self.put(4, 6)
        self.assertEqual(self.pop(2), [None, (4, 5)])
        self.assertEqual(self.put(2), [False])
        self.assertEqual(self.put(2), [False])  # repeating it adds no delay
        self.assertEqual(self.pop(2), [None, (6, 7)])
        self.assertEqual(self.put(4, 6, 2), [False] * 3)
        self.assertEqual(self.play(8), [(8, 9)])

    def test_a_stall_of_the_network_leaves_its_last_200_ms(self):
        self.play(0)
        self.pop(50)
        self.put(*range(2, 102, 2))
        self.assertEqual(self.pop(), [(80, 81)])
        self.assertEqual(self.pop(11)[9:], [(100, 101), None])

    def test_the_delay_of_a_stall_is_gone_within_25_s(self):
        self.put(*range(0, 20, 2))
        for slot in range(20, 2520, 2):
            self.put(slot)
            self.put(*range(slot - 20, slot, 2))  # repeats do not bring back skipped audio
            heard = self.pop()
            self.assertNotIn(None, heard)
        self.assertEqual(heard, [(2518 & 255, 2519 & 255)])
        self.assertEqual(len(self.buffer._audio), 0)

    def test_the_delay_does_not_shrink_while_one_packet_in_a_hundred_needs_it(self):
        for slot in range(0, 3000, 2):
            if slot % 200 != 100:
                self.put(slot)
            if slot % 200 == 102 or slot % 200 == 104:
                self.put(slot - slot % 200 + 100)
            heard = self.pop()
            if slot > 200:
                self.assertEqual(heard, [((slot - 2) & 255, (slot - 1) & 255)])

    def test_a_sender_whose_clock_is_slower_or_faster_is_followed(self):
        for drift, gaps, skipped in ((1e-3, 10, 0), (-1e-3, 0, 10)):  # ten times that of any phone
            with self.subTest(drift):
                self.setUp()
                heard = self.run_on(network(1, 210, drift=drift), 200)
                slots = [slot for _, both in heard if both for slot in both]
                self.assertEqual(slots, sorted(set(slots)))
                self.assertAlmostEqual(sum(both is None for _, both in heard), gaps, delta=1)
                self.assertAlmostEqual(slots[-1] + 1 - len(slots), 2 * skipped, delta=2)
                waits = [at - both[0] / 100 * (1 + drift) for at, both in heard if both]
                self.assertLess(max(waits), 0.040)


class Networks(OnTicks):
    def lost_and_gaps(self, seed, slots, **parts):
        """Run 60 s; return (slots that arrived but were not played, gaps of 20 ms, slots lost in
        the network, longest delay in s)."""
        self.setUp()
        phase = random.Random(seed).random() / 50
        arrivals = network(seed, 60, slots=slots, **parts)
        heard = self.run_on(arrivals, 60, slots, phase)
        played = [slot for _, both in heard if both for slot in both]
        self.assertEqual(played, sorted(played))
        if slots % 2 == 0:
            self.assertEqual(len(played), len(set(played)))
        came = {first + n for _, first in arrivals for n in range(slots)}
        span = range(1000, played[-1])  # after 10 s in which it adapts
        never = came.intersection(span).difference(played)
        lost = [slot for slot in span if slot not in came]
        after = [n for n, (_, both) in enumerate(heard) if both and both[0] >= 1000]
        heard = heard[after[0]:after[-1]]
        gaps = sum(both is None for _, both in heard)
        longest = max(at - both[0] / 100 for at, both in heard
                      if both and both[1] - both[0] == 1)
        return len(never), gaps, len(lost), longest

    def test_jitter_of_30_ms_loses_nothing_and_adds_no_needless_delay(self):
        for seed in range(3):
            never, gaps, lost, wait = self.lost_and_gaps(seed, 2, jitter=0.030)
            self.assertEqual((never, gaps, lost), (0, 0, 0))
            self.assertLess(wait, 0.0501)

    def test_with_losses_repeats_and_reordering_only_the_losses_are_gaps(self):
        for seed in range(3):
            never, gaps, lost, wait = self.lost_and_gaps(
                seed, 2, jitter=0.030, lost=0.02, repeated=0.05, delayed=0.05)
            self.assertGreater(lost, 50)
            self.assertLessEqual(never, 4)  # a tick of delay too few, and back again
            self.assertAlmostEqual(gaps, lost / 2, delta=2)
            self.assertLess(wait, 0.0751)

    def test_the_same_with_packets_of_10_and_of_60_ms(self):
        for slots in (1, 6):
            never, _, lost, wait = self.lost_and_gaps(
                5, slots, jitter=0.030, lost=0.02, repeated=0.05, delayed=0.05)
            self.assertGreater(lost, 50)
            self.assertLessEqual(never, 4)
            self.assertLess(wait, 0.0751)


class Stalls(unittest.TestCase):
    """What is lost and concealed if the network, or our own process, stands still for a while."""

    def send(self, packets, *stalls):
        """Return [(sent, arrived, number)] in ms: 20 ms each, at once but for (begin, length)."""
        arrivals = []
        for number in range(packets):
            sent = arrived = 20 * number
            for begin, length in stalls:
                if begin <= sent < begin + length:
                    arrived = begin + length
            arrivals.append((sent, arrived, number))
        return arrivals

    def ticks(self, end, phase, *stalls):
        """Return when RTPThread pops, in ms: it stands still in each (begin, length)."""
        times, due = [], phase
        while due < end:
            now = due
            if times:
                now = max(now, times[-1])
            for begin, length in stalls:
                if begin <= now < begin + length:
                    now = begin + length
            times.append(now)
            due = max(due, now - round(1000 * MAX_BEHIND)) + 20
        return times

    def run_on(self, arrivals, ticks):
        """Return (lost, [(when, delay of the audio popped, or None for a gap)]), in ms.

        lost: numbers of packets that are neither played nor wait. The first audio has come.
        """
        buffer, arrivals, heard, delays = JitterBuffer(), list(arrivals), set(), []
        sent = {number: at for at, _, number in arrivals}
        for now in ticks:
            while arrivals and arrivals[0][1] <= now:
                _, _, number = arrivals.pop(0)
                buffer.put(7, START + 160 * number & 0xFFFFFFFF, b"%160d" % number)
            frame = buffer.pop()
            if frame:
                heard.add(int(frame))
            if heard:
                delays.append((now, now - sent[int(frame)] if frame else None))
        while buffer._audio:
            heard.add(int(buffer.pop() or b"-1"))
        return len(set(sent) - heard - {number for _, _, number in arrivals}), delays

    def gaps(self, delays, begin, end):
        """Return the ms that were concealed from begin to end."""
        return 20 * sum(delay is None for when, delay in delays if begin <= when < end)

    def test_a_stall_that_fits_loses_nothing_and_a_second_one_is_not_heard(self):
        for length in (30, 60, 100, 150, 180, 200):
            for phase in (0, 1, 10, 19):
                for begin, again in itertools.product((1000, 1001, 1010, 1019),
                                                      (1900, 3001, 5010, 6019)):
                    with self.subTest(ms=length, phase=phase, begin=begin, again=again):
                        arrivals = self.send(400, (begin, length), (again, length))
                        lost, delays = self.run_on(arrivals, self.ticks(8000, phase))
                        self.assertEqual(lost, 0)
                        self.assertLessEqual(self.gaps(delays, 0, again), length + 40)
                        if length >= 100 or (begin - again) % 20 == 0:
                            self.assertEqual(self.gaps(delays, again, 8000), 0)
                        self.assertLess(max(delay or 0 for _, delay in delays), 220)

    def test_of_a_longer_stall_only_what_is_beyond_200_ms_is_lost(self):
        for length in (250, 400, 1000):
            for phase, begin in itertools.product((1, 19), (1000, 1010)):
                with self.subTest(ms=length, phase=phase, begin=begin):
                    arrivals = self.send(400, (begin, length), (begin + 4000, length))
                    lost, delays = self.run_on(arrivals, self.ticks(8000, phase))
                    self.assertLessEqual(20 * lost, 2 * (length - 200) + 40)
                    self.assertLess(max(delay or 0 for _, delay in delays), 220)

    def test_on_an_even_network_the_delay_of_a_stall_is_gone_soon(self):
        for length, seconds in ((40, 15), (60, 17), (150, 19), (200, 20), (400, 20)):
            with self.subTest(ms=length):
                arrivals = self.send(1200, (1000, length))
                _, delays = self.run_on(arrivals, self.ticks(23900, 1))
                self.assertEqual({delay for when, delay in delays
                                  if when > 1000 * (1 + seconds)}, {1})
                self.assertEqual(self.gaps(delays, 1500 + length, 24000), 0)

    def test_stalls_that_come_every_few_seconds_are_hardly_heard(self):
        stalls = [(1000 * second + 7 * second % 20, 120) for second in range(1, 60, 7)]
        lost, delays = self.run_on(self.send(3000, *stalls), self.ticks(60000, 5))
        self.assertLessEqual(20 * lost, 80)
        self.assertLessEqual(self.gaps(delays, 2000, 60000), 80)

    def test_a_stall_of_our_own_loses_nothing_though_the_buffer_is_full(self):
        for before in (0, 100, 180):
            for length in (50, 150, 200):
                for begin in (before + 1020, before + 1040, 3000):
                    self.own_stall(before, begin, length)

    def own_stall(self, before, begin, length):
        with self.subTest(ms=length, delay=before, begin=begin):
            arrivals = self.send(400, (1000, before))
            ticks = self.ticks(8000, 1, (begin, length), (5000, length))
            lost, delays = self.run_on(arrivals, ticks)
            self.assertEqual((lost, self.gaps(delays, begin + 20, 8000)), (0, 0))
            self.assertLess(delays[-1][1], 220)

    def test_the_buffer_knows_how_many_ticks_are_made_up(self):
        self.assertEqual(MADE_UP, MAX_BEHIND * 8000)

    def test_a_sender_that_sends_too_fast_is_not_taken_for_a_stall_of_our_own(self):
        buffer = JitterBuffer()
        buffer.put(7, 0, bytes(160))
        for number in range(1, 200, 2):
            buffer.pop()
            for start in (160 * number, 160 * number + 160):
                buffer.put(7, start, bytes(160))
            if number > 60:
                self.assertLessEqual(len(buffer._audio), MAX_AHEAD + 2 * 160 + MADE_UP)
        sizes = []
        for number in range(201, 300):
            buffer.pop()
            buffer.put(7, 160 * number, bytes(160))
            sizes.append(len(buffer._audio))
        self.assertLessEqual(max(sizes[20:]), MAX_AHEAD + 160)

    def test_a_long_stall_of_our_own_leaves_200_ms_beside_the_ticks_that_are_made_up(self):
        for before, length, most in ((0, 400, 0), (100, 400, 100), (180, 300, 80), (0, 1000, 600)):
            with self.subTest(ms=length, delay=before):
                arrivals = self.send(400, (1000, before))
                lost, delays = self.run_on(arrivals, self.ticks(8000, 1, (3000, length)))
                self.assertLessEqual(20 * lost, most + 20)
                self.assertLess(max(delay or 0 for when, delay in delays if when > 3400 + length),
                                220)


class Beginnings(OnTicks):
    def test_a_new_source_is_played_at_once_and_waiting_audio_of_the_old_dropped(self):
        self.put(0, 2, 4)
        self.assertEqual(self.put(2, ssrc=8), [True])
        self.assertEqual(self.pop(2), [(2, 3), None])

    def test_a_jump_of_the_clock_is_followed_at_once(self):
        for jump in (-200, 150, 100000, 2 ** 31 // SLOT, -100000):
            with self.subTest(slots=jump):
                self.setUp()
                self.play(1000, 10)
                at = 1020 + jump
                self.assertEqual(self.play(at, 3), [
                    (slot & 255, slot + 1 & 255) for slot in (at, at + 2, at + 4)])

    def test_a_clock_set_back_by_less_than_a_second_is_followed_after_100_ms(self):
        self.play(0, 40)
        heard = self.play(30, 10)
        self.assertEqual(heard[:4], [None] * 4)
        self.assertEqual(heard[5:], [(slot, slot + 1) for slot in range(40, 50, 2)])

    def test_an_old_packet_repeated_for_ever_is_no_new_clock(self):
        self.play(0, 40)
        for _ in range(500):
            self.assertEqual(self.put(78) + self.put(60), [False] * 2)
            self.assertEqual(self.pop(), [None])

    def test_after_silence_the_first_packet_is_played_whether_timestamps_went_on_or_not(self):
        for seconds in (0.1, 0.5, 3, 60):
            for went_on in (True, False):
                with self.subTest(seconds=seconds, went_on=went_on):
                    self.setUp()
                    self.play(0, 50)
                    self.pop(int(seconds * 50))
                    at = 100 + int(seconds * 100) * went_on
                    self.assertEqual(self.play(at, 2), [
                        (at & 255, at + 1 & 255), (at + 2 & 255, at + 3 & 255)])

    def test_a_flood_does_not_grow_the_buffer(self):
        rng = random.Random(3)
        for number in range(2000):
            self.buffer.put(rng.randrange(2), rng.randrange(2 ** 32) >> rng.randrange(32),
                            bytes(rng.randrange(2000)))
            if number % 10 == 0:
                self.buffer.pop()
            self.assertLess(len(self.buffer._audio), MAX_AHEAD + MADE_UP + 2 * 2048)
        self.play(0, 10)
        self.assertEqual(self.play(20), [(20, 21)])


class Gaps(unittest.TestCase):
    def test_frames_that_arrived_pass_unchanged(self):
        concealer = Concealer()
        for pcm in (b"\1\2" * 160, b"\3\4" * 160):
            self.assertIs(concealer.feed(pcm), pcm)

    def test_before_the_first_frame_there_is_silence_of_20_ms(self):
        self.assertEqual(Concealer(8000).feed(None), bytes(320))
        self.assertEqual(Concealer(16000).feed(None), bytes(640))

    def fill(self, samples, frames):
        """Return the samples of `frames` concealed frames after a frame of samples."""
        concealer = Concealer()
        concealer.feed(struct.pack(f"<{len(samples)}h", *samples))
        return [struct.unpack(f"<{len(samples)}h", concealer.feed(None)) for _ in range(frames)]

    def test_a_gap_fades_from_the_last_audio_to_silence_in_80_ms(self):
        for level in (32767, -32768):
            for size in (160, 320):
                filled = sum(self.fill([level] * size, 5), ())
                steps = [abs(b - a) for a, b in zip((level, *filled), filled)]
                self.assertLess(max(steps), 200)
                self.assertEqual(sorted(map(abs, filled), reverse=True), list(map(abs, filled)))
                for frame, share in enumerate((0.75, 0.5, 0.25), 1):
                    self.assertAlmostEqual(filled[frame * size] / level, share, delta=0.02)
                self.assertEqual(filled[4 * size:], (0,) * size)

    def test_the_wave_has_no_step_between_two_frames(self):
        samples = list(range(0, 16000, 100))
        first, second, third, _ = self.fill(samples, 4)
        self.assertAlmostEqual(first[0], samples[-1], delta=100)
        self.assertLess(first[80], first[0] / 2)
        self.assertLess(abs(second[0] - first[-1]), 100)
        self.assertLess(abs(third[0] - second[-1]), 100)
        self.assertGreater(second[159], 7000)

    def test_a_frame_ends_the_gap_and_fills_the_next_one(self):
        concealer = Concealer()
        for level in (1000, 2000):
            concealer.feed(struct.pack("<160h", *[level] * 160))
            self.assertAlmostEqual(struct.unpack("<160h", concealer.feed(None))[0], level, delta=10)


if __name__ == "__main__":
    unittest.main()
