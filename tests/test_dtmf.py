"""Key presses: each is reported once, whatever carries it."""

import unittest

from siprtp.dtmf import EventReader, Keys, NotifyReader, event_payloads, info_key


def event(code, duration, end=False):
    return bytes([code, 0x8A if end else 0x0A, duration >> 8, duration & 255])


class Events(unittest.TestCase):
    def setUp(self):
        self.reader = EventReader()

    def read(self, *packets, ssrc=7):
        return [self.reader.read(ssrc, timestamp, payload) for timestamp, payload in packets]

    def press(self, code, timestamp):
        return [(timestamp, event(code, 160 * n)) for n in range(1, 5)] + [
            (timestamp, event(code, 800, True))] * 3

    def test_a_press_of_many_packets_is_reported_once_at_its_first(self):
        self.assertEqual(self.read(*self.press(5, 1000)), ["5"] + [""] * 6)

    def test_the_same_key_twice_is_two_presses(self):
        told = self.read(*self.press(1, 1000), *self.press(1, 3000))
        self.assertEqual("".join(told), "11")

    def test_any_of_the_packets_may_be_lost(self):
        for lost in range(6):
            self.setUp()
            packets = self.press(9, 1000)
            del packets[:lost]
            self.assertEqual("".join(self.read(*packets)), "9", lost)

    def test_every_end_may_be_lost_and_the_next_press_is_reported(self):
        told = self.read(*self.press(1, 1000)[:4], *self.press(1, 3000))
        self.assertEqual("".join(told), "11")

    def test_late_packets_of_a_press_before_tell_nothing(self):
        told = self.read(*self.press(1, 1000), *self.press(2, 3000), *self.press(1, 1000)[4:])
        self.assertEqual("".join(told), "12")

    def test_a_long_press_goes_on_under_a_new_timestamp(self):
        # RFC 4733 2.5.1.3: no E bit, and the next segment begins where the last one reached
        told = self.read((1000, event(4, 0xFFFF)), (1000 + 0xFFFF, event(4, 160)),
                         (1000 + 0xFFFF, event(4, 320, True)))
        self.assertEqual(told, ["4", "", ""])

    def test_a_long_press_goes_on_where_the_last_packet_of_a_segment_is_lost(self):
        told = self.read((1000, event(4, 0xFFFF - 160)), (1000 + 0xFFFF, event(4, 160)))
        self.assertEqual(told, ["4", ""])

    def test_a_clock_that_jumps_back_hides_no_key(self):
        told = self.read(*self.press(1, 3000000000), *self.press(2, 1500000000))
        self.assertEqual("".join(told), "12")

    def test_timestamps_wrap_and_a_new_source_begins_anew(self):
        told = self.read(*self.press(1, 2 ** 32 - 100), *self.press(2, 900))
        self.assertEqual("".join(told), "12")
        self.assertEqual("".join(self.read(*self.press(3, 5), ssrc=8)), "3")

    def test_all_keys_and_nothing_else_is_a_key(self):
        told = [self.read((n * 9000, event(n, 160)))[0] for n in range(20)]
        self.assertEqual(told, [*"0123456789*#ABCD", "", "", "", ""])
        self.assertEqual(self.read((10 ** 6, b"\1\2\3"), (10 ** 6, b"")), ["", ""])


class Bodies(unittest.TestCase):
    def test_info_bodies_of_both_kinds(self):
        for kind, body, key in (
                ("application/dtmf-relay", b"Signal= 1\r\nDuration= 160\r\n", "1"),
                ("Application/DTMF-Relay;x=y", b"signal=#\n", "#"),
                ("application/dtmf-relay", b"Signal=10\r\n", "*"),
                ("application/dtmf-relay", b"Duration=160\r\n", ""),
                ("application/dtmf-relay", b"Signal=hello\r\n", ""),
                ("application/dtmf-relay", b"\r\n signal = #\r\n", "#"),
                ("application/dtmf-relay", b"\n" * 65000, ""),  # once half a minute of work
                ("application/dtmf-relay", b"Signal=\xff\r\n", ""),
                ("application/dtmf", b" d\r\n", "D"), ("application/dtmf", b"", ""),
                ("application/media_control+xml", b"1", ""), ("", b"1", "")):
            self.assertEqual(info_key(kind, body), key, (kind, body))

    def test_notifies_one_or_two_to_a_press(self):
        reader = NotifyReader()
        bodies = [b"\7\0\7\xd0", b"\7\x80\7\xd0", b"\7\0\7\xd0", b"\7\0\7\xd0",
                  b"\1\x80\0\0", b"\1"]
        self.assertEqual([reader.read(body) for body in bodies], ["7", "", "7", "7", "1", ""])

    def test_notifies_of_a_long_press_are_one(self):
        reader = NotifyReader()
        told = [reader.read(event(4, duration)) for duration in (400, 4400, 8400)]
        self.assertEqual([*told, reader.read(event(4, 9000, True)), reader.read(event(4, 400))],
                         ["4", "", "", "", "4"])


class TwoWays(unittest.TestCase):
    def told(self, *presses):
        """Return the keys taken of (key, way, seconds)."""
        keys = Keys()
        return "".join(key for key, way, now in presses if keys.is_new(key, way, now))

    def test_a_press_that_two_ways_tell_is_one(self):
        self.assertEqual(self.told(("5", "RTP", 0.0), ("5", "NOTIFY", 0.1)), "5")
        self.assertEqual(self.told(("5", "RTP", 0.0), ("5", "RTP", 0.3), ("5", "INFO", 0.4),
                                   ("7", "RTP", 0.5), ("5", "INFO", 0.6), ("7", "INFO", 0.7)),
                         "557")
        self.assertEqual(self.told(("5", "RTP", 0.0), ("5", "INFO", 0.1), ("5", "NOTIFY", 0.2)),
                         "5")
        self.assertEqual(self.told(("5", "RTP", 0.0), ("5", "INFO", 3.0)), "5")  # a long press

    def test_none_is_lost_where_a_way_repeats_or_another_takes_over(self):
        self.assertEqual(self.told(*[("5", "RTP", n / 10) for n in range(50)]), "5" * 50)
        self.assertEqual(self.told(("5", "RTP", 0.0), ("5", "INFO", 5.5), ("5", "INFO", 6.0)),
                         "555")


class Sent(unittest.TestCase):
    def test_a_press_grows_and_ends_three_times(self):
        payloads = event_payloads("#")
        self.assertEqual(payloads, [bytes([11, 10, 0, 160]), bytes([11, 10, 1, 64]),
                                    bytes([11, 10, 1, 224]), bytes([11, 10, 2, 128])]
                         + [bytes([11, 0x8A, 3, 32])] * 3)

    def test_what_is_sent_is_read_back(self):
        reader = EventReader()
        told = [reader.read(1, 8000 * n, payload) for n, key in enumerate("0*9D")
                for payload in event_payloads(key)]
        self.assertEqual("".join(told), "0*9D")

    def test_what_is_no_key_raises_value_error(self):
        for key in ("", "x", "12"):
            with self.assertRaises(ValueError):
                event_payloads(key)


if __name__ == "__main__":
    unittest.main()
