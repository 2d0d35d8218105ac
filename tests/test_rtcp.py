"""RTCP: statistics of received packets, and reports as bytes."""

import unittest

from siprtp.media import rtcp
from siprtp.media.rtcp import Block, Reception


class Counted(unittest.TestCase):
    def setUp(self):
        self.reception = Reception()

    def take(self, *sequences, ssrc=7, late=()):
        for sequence in sequences:
            arrival = sequence * 160 + 5000 + dict(late).get(sequence, 0)
            self.reception.count(ssrc, sequence & 0xFFFF, sequence * 160 & 0xFFFFFFFF, 160, arrival)

    def test_nothing_is_expected_before_the_first_packet(self):
        self.assertEqual((self.reception.expected, self.reception.lost), (0, 0))

    def test_losses_are_the_gaps_in_the_sequence(self):
        self.take(1, 2, 5, 6)
        self.assertEqual((self.reception.expected, self.reception.lost), (6, 2))
        self.take(3)  # late, not lost
        self.assertEqual(self.reception.lost, 1)

    def test_the_sequence_wraps(self):
        self.take(*range(65530, 65546))
        self.assertEqual((self.reception.expected, self.reception.lost), (16, 0))
        self.assertEqual(self.reception.block().highest, 65545)

    def test_a_new_source_or_a_jump_starts_anew_and_is_no_loss(self):
        self.take(1, 2, 4)
        self.take(30000, 30001)
        self.take(9, 10, ssrc=8)
        self.assertEqual((self.reception.expected, self.reception.lost), (8, 1))

    def test_a_repeat_is_distinguished_from_a_late_packet(self):
        def new(*sequences, ssrc=7):
            return [self.reception.count(ssrc, sequence & 0xFFFF, 0, 160, None)
                    for sequence in sequences]

        self.assertEqual(new(65534, 65534, 65537, 65536, 65536, 65535, 65534, 65537),
                         [True, False, True, True, False, True, False, False])
        self.assertEqual(new(65600, 65599, 65537, 65538, 65538), [True, True, False, True, False])
        self.assertEqual(new(65600, ssrc=8), [True])

    def test_a_repeat_from_a_run_is_recognized(self):
        self.take(1)
        self.reception.count_run(30, 0, 31 << 32, 0, 0)
        self.assertEqual([self.reception.count(7, sequence, 0, 160, None)
                          for sequence in (31, 2, 1, 0, 32, 31)],
                         [False, False, False, True, True, False])
        self.reception.count_run(10 ** 6, 0, 5000 << 32, 0, 0)
        self.assertFalse(self.reception.count(7, 4950, 0, 160, None))

    def test_a_packet_a_hundred_behind_starts_anew_without_losses(self):
        self.take(1000, 1001)
        self.take(901, 902)
        self.assertEqual((self.reception.expected, self.reception.lost), (4, 0))
        self.assertEqual(self.reception.highest, 902)

    def test_a_report_is_only_about_the_present_source(self):
        self.take(1, 2, 9)
        self.take(5, 6, ssrc=8)
        self.assertEqual(self.reception.block()[:4], (8, 0, 0, 6))
        self.assertEqual(self.reception.lost, 6)

    def test_packets_that_were_not_counted_are_not_lost(self):
        self.take(1, 2)
        self.reception.restart()
        self.take(900, 901)
        self.assertEqual((self.reception.expected, self.reception.lost), (4, 0))

    def test_jitter_follows_the_change_of_transit_time(self):
        self.take(1, 2, 3)
        self.assertEqual(self.reception.jitter, 0)
        self.take(4, late=[(4, 160)])
        self.assertEqual(self.reception.jitter, 10)  # 160 / 16
        self.take(5, late=[(5, 160)])
        self.assertEqual(self.reception.jitter, 10 - 10 / 16)

    def test_a_jump_of_the_clock_is_no_jitter(self):
        self.take(1, 2)
        self.take(3, late=[(3, 10 ** 6)])
        self.assertEqual(self.reception.jitter, 0)

    def test_the_fraction_lost_counts_from_the_last_report(self):
        self.take(1, 2, 4)
        self.assertEqual(self.reception.block()[:4], (7, 64, 1, 4))
        self.take(5, 6)
        self.assertEqual(self.reception.block()[:4], (7, 0, 1, 6))
        self.assertEqual(self.reception.block().fraction_lost, 0)


class CounterStartsAgain(unittest.TestCase):
    """A sender's sequence numbers go back by fewer than 100, while its clock goes on."""

    def setUp(self):
        self.reception, self.clock = Reception(), 2 ** 32 - 5000

    def take(self, *sequences, copies=1, jump=0):
        """Count consecutive packets; return which of them were no repeats, as 1 and 0."""
        told, self.clock = "", self.clock + jump
        for sequence in sequences:
            self.clock += 160
            for _ in range(copies):
                told += str(int(self.reception.count(
                    7, sequence & 0xFFFF, self.clock & 0xFFFFFFFF, 160, self.clock + 80)))
        return told

    def counted(self):
        reception = self.reception
        return reception.packets, reception.expected, reception.lost

    def test_one_packet_is_dropped_and_none_is_lost(self):
        for back in range(1, rtcp.MAX_MISORDER + 1):
            self.setUp()
            self.take(*range(65500, 65650))
            self.assertEqual(self.take(*range(65650 - back, 65850)), "0" + "1" * (199 + back),
                             back)
            self.assertEqual(self.counted(), (350 + back, 350 + back, 0), back)
            self.assertEqual(self.reception.highest, 65849 & 0xFFFF)

    def test_its_clock_may_start_again_too(self):
        for jump in (-2 ** 31, -10 ** 6, 10 ** 6, 2 ** 31 - 1000):
            self.setUp()
            self.take(*range(500))
            self.assertEqual(self.take(*range(450, 500), jump=jump), "0" + "1" * 49, jump)
            self.assertEqual(self.take(*range(500, 510), copies=2), "10" * 10)

    def test_every_packet_may_come_twice(self):
        self.take(*range(100), copies=2)
        self.assertEqual(self.take(*range(60, 200), copies=2), "00" + "10" * 139)

    def test_the_first_packets_may_be_those_of_a_key(self):
        self.take(*range(100))
        self.clock += 160
        self.assertEqual([self.reception.count(7, number, self.clock & 0xFFFFFFFF, 4, None)
                          for number in (60, 60, 61, 61, 62)], [False, False, True, False, True])

    def test_some_packets_may_be_lost(self):
        self.take(*range(100))
        self.assertEqual(self.take(60, 62, 64, 65, 68, 70), "000111")
        self.assertEqual(self.counted(), (106, 109, 3))
        self.assertEqual(self.reception.block()[1:4], (256 * 3 // 7, 3, 70))

    def test_a_report_is_about_the_packets_since(self):
        self.take(*range(100), 102)
        self.take(*range(60, 70))
        self.assertEqual(self.reception.block()[:5], (7, 0, 0, 69, 0))
        self.assertEqual(self.reception.lost, 2)

    def test_packets_that_a_network_sends_again_are_repeats(self):
        for first, last in ((50, 100), (2, 100), (98, 100), (99, 100), (50, 60)):
            self.setUp()
            self.take(*range(100))
            now, self.clock = self.clock, self.clock - 160 * (100 - first)
            self.assertEqual(self.take(*range(first, last)), "0" * (last - first))
            self.clock = now
            self.assertEqual(self.take(*range(100, 110), copies=2), "10" * 10)
            self.assertEqual(self.reception.highest, 109)

    def test_repeats_after_a_run_and_keys_with_older_timestamps_are_repeats(self):
        self.take(1)
        self.reception.count_run(30, 0, 31 << 32 | 160 * 31, 0, 0)
        self.clock = 160 * 9
        self.assertEqual(self.take(*range(10, 32)), "0" * 22)
        self.assertEqual(self.take(*range(32, 40)), "1" * 8)
        self.assertTrue(self.reception.count(7, 40, 160 * 33, 4, None))  # a key pressed before
        self.clock -= 160 * 2
        self.assertEqual(self.take(38, 39), "00")


class OnTheWire(unittest.TestCase):
    BLOCK = Block(7, 64, 3, 65545, 12, 0x11112222, 65536)

    def test_a_sender_report_has_its_times_counts_block_and_name(self):
        data = rtcp.report(1, "us", (rtcp.ntp(0.5), 160, 10, 1600), self.BLOCK)
        self.assertEqual(data[:8].hex(), "81c8000c" + "00000001")
        self.assertEqual(data[8:28].hex(), "83aa7e8080000000" + "000000a0" "0000000a" "00000640")
        self.assertEqual(data[28:52].hex(), "00000007" + "40000003" + "00010009" + "0000000c"
                         + "11112222" + "00010000")
        self.assertEqual(data[52:].hex(), "81ca0003" "00000001" "0102" "7573" "00000000")
        self.assertEqual(rtcp.parse(data), ((1, rtcp.ntp(0.5)), [self.BLOCK]))

    def test_a_receiver_report_of_nothing_and_a_goodbye_are_compound(self):
        self.assertEqual(rtcp.report(1, "abc")[:8].hex(), "80c90001" + "00000001")
        bye = rtcp.goodbye(1, "abc")
        self.assertEqual(bye[-8:].hex(), "81cb0001" + "00000001")
        self.assertEqual(rtcp.parse(bye), (None, []))
        for name in ("a", "ab", "abc", "abcd"):
            self.assertEqual(len(rtcp.report(1, name)) % 4, 0)

    def test_a_malformed_packet_raises_value_error(self):
        good = rtcp.report(1, "us", (1, 2, 3, 4), self.BLOCK)
        for data in (b"\x80", b"\x80\xc9", good[:-1], good[:30], b"\0" + good[1:],
                     rtcp.report(1, "x")[8:], b"\x9f\xc9\0\1" + b"\0" * 4, b"\x80\xc8\0\0"):
            with self.subTest(data[:8]), self.assertRaises(ValueError):
                rtcp.parse(data)


if __name__ == "__main__":
    unittest.main()
