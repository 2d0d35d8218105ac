"""Key presses: each is reported once, whatever carries it."""

import unittest

from siprtp.dtmf import EventReader, Keys, NotifyReader, event_payloads, info_keys


def event(code, duration, end=False):
    return bytes([code, 0x8A if end else 0x0A, duration >> 8, duration & 255])


def press(code, number, timestamp, step=0, end_step=0, marker=True, frames=5, ends=3):
    """Return the packets of a press, [(sequence, marker, timestamp, payload)].

    step, end_step: how far the timestamp advances with each packet, and with each of the ends.
    """
    packets = [(number + n, marker and n == 0, timestamp + step * n, event(code, 160 * n + 160))
               for n in range(frames - 1)]
    at = timestamp + step * (frames - 1)
    return packets + [
        (number + frames - 1 + n, marker and n == 1 - frames, at + step * n + end_step * (n + 1),
         event(code, 160 * frames, True)) for n in range(ends)]


def presses(code, numbers, apart):
    """Return the packets of presses of a key that begin at these numbers, at new timestamps."""
    return [packet for n, number in enumerate(numbers)
            for packet in press(code, number, apart * (n + 1))]


A, B, C = press(10, 1, 9000), press(0, 8, 9000), press(1, 15, 9000)  # all with one timestamp
AGAIN = press(1, 1, 9000), press(1, 8, 9000), press(1, 15, 9000)
FIRST, SECOND = press(1, 1, 1000), press(1, 8, 3000)
LONG = [(1, True, 1000, event(4, 0xFFFF - 160)), (2, False, 1000, event(4, 0xFFFF)),
        (3, False, 1000 + 0xFFFF, event(4, 160)), (4, False, 1000 + 0xFFFF, event(4, 320, True))]
CASES = {  # name: (keys, packets)
    # must be new
    "the next press": ("11", FIRST + SECOND),
    "all presses share a timestamp": ("*01", A + B + C),
    "the same key with the same timestamp": ("111", AGAIN[0] + AGAIN[1] + AGAIN[2]),
    "the same, each marker is lost": ("111", AGAIN[0][1:] + AGAIN[1][1:] + AGAIN[2][1:]),
    "the same, all ends are lost": ("111", AGAIN[0][:4] + AGAIN[1][:4] + AGAIN[2][:4]),
    "the same, only the first ends arrive": ("111", [AGAIN[n][4] for n in range(3)]),
    "short presses of ends alone": ("111", press(1, 1, 9000, frames=1) + press(
        1, 4, 9000, frames=1) + press(1, 7, 9000, frames=1)),
    "all ends are lost": ("11", FIRST[:4] + SECOND),
    "an end each, by loss": ("11", FIRST[4:5] + SECOND[4:5]),
    "the first packet arrives after the next press": ("*0", A[:1] + B),
    "all of a press arrive after the next one": ("21", press(2, 8, 3000) + FIRST),
    "a key between two that seemed one": ("101", press(1, 1, 9000)[:2] + press(
        1, 15, 9000)[3:] + press(0, 8, 9000)),
    "without any marker": ("11", press(1, 1, 1000, marker=False) + press(
        1, 8, 3000, marker=False)),
    "a clock that jumps back": ("12", press(1, 1, 3000000000) + press(2, 8, 1500000000)),
    "a counter that starts again": ("11", press(1, 90, 1000) + press(1, 60, 3000)),
    "a counter that starts again, after many presses": (
        "1" * 9, presses(1, [*range(100, 156, 7), 60], 2000)),
    "a counter that has come round": ("11", press(1, 200, 1000) + press(1, 195, 10 ** 7)),
    "an hour without keys": ("11", FIRST + press(1, 50000, 10 ** 7)),
    "all packets marked, then the same key": ("11", [
        (n, True, at, data) for n, _, at, data in AGAIN[0] + AGAIN[1]]),
    # must be the same
    "a press": ("5", press(5, 1, 1000)),
    "each packet twice": ("11", [data for data in FIRST + SECOND for _ in range(2)]),
    "a timestamp for each packet": ("5", press(5, 1, 1000, step=160)),
    "the same every 50 ms": ("5", [(1, True, 1000, event(5, 400)), (2, False, 1400, event(5, 800)),
                                   (4, False, 2200, event(5, 1200, True)),
                                   (6, False, 3000, event(5, 1200, True))]),
    "the same, twice": ("55", press(5, 1, 1000, step=160) + press(5, 8, 3000, step=160)),
    "a timestamp for each packet, each with one frame": ("5", [
        (n, n == 1, 160 * n, event(5, 160)) for n in range(1, 9)]),
    "new timestamps for the ends": ("55", press(5, 1, 1000, end_step=160) + press(
        5, 8, 3000, end_step=160)),
    "the ends have the times at which they are sent": ("5", press(5, 1, 1000)[:4] + [
        (5 + n, False, 1800 + 160 * n, event(5, 800, True)) for n in range(3)]),
    "the same, but for the first end": ("5", press(5, 1, 1000)[:5] + [
        (6 + n, False, 1800 + 160 * n, event(5, 800, True)) for n in range(2)]),
    "the same, with one packet of 50 ms before the ends": ("5", [
        (1 + n, n == 0, 1000 + 400 * n, event(5, 400, n > 0)) for n in range(4)]),
    "the same, and two of the ends are lost": ("5", [
        (1, True, 1000, event(5, 160)), (2, False, 1160, event(5, 320)),
        (5, False, 1640, event(5, 320, True))]),
    "ends that grow": ("5", press(5, 1, 1000)[:5] + [
        (6, False, 1000, event(5, 960, True)), (7, False, 1000, event(5, 1120, True))]),
    "an end shorter than what came before it": ("5", press(5, 1, 1000)[:4] + [
        (5, False, 1000, event(5, 600, True))]),
    "the marker in all packets": ("5", [(n, True, at, data) for n, _, at, data in
                                        press(5, 1, 1000)]),
    "the marker in the first end, too": ("5", [(n, n in (1, 5), at, data) for n, _, at, data in
                                               press(5, 1, 1000)]),
    "the first packet arrives second": ("5", [FIRST[n][:3] + (press(5, 1, 1000)[n][3],)
                                              for n in (1, 0, 2, 3, 4, 6, 5)]),
    "the order is reversed": ("1", FIRST[::-1]),
    "late ends of a press before": ("12", FIRST + press(2, 8, 3000) + FIRST[4:]),
    "a lost end that arrives late": ("12", FIRST[:6] + press(2, 8, 3000) + FIRST[6:]),
    "a replay of presses long ago": ("1" * 9, presses(1, range(7, 70, 7), 2000)
                                     + presses(1, (7, 14), 2000)),
    "the next segment of a long press": ("4", LONG),
    "the last packet of a segment is lost": ("4", LONG[:1] + LONG[2:]),
    "a duration that wraps": ("4", LONG[:2] + [(3, False, 1000, event(4, 100))]),
    "audio between the packets": ("5", [(3 * n, *rest) for n, *rest in press(5, 1, 1000)]),
    "numbers and timestamps that wrap": ("12", [
        (n & 0xFFFF, marker, at & 0xFFFFFFFF, data) for n, marker, at, data in
        press(1, 65534, 2 ** 32 - 400, step=160) + press(2, 65541, 2 ** 32 + 900)]),
}


class Events(unittest.TestCase):
    def setUp(self):
        self.reader = EventReader()

    def read(self, packets, ssrc=7):
        return "".join(self.reader.read(ssrc, *packet) for packet in packets)

    def test_each_press_is_reported_once(self):
        for name, (keys, packets) in CASES.items():
            with self.subTest(name):
                self.setUp()
                self.assertEqual(self.read(packets), keys)

    def test_a_press_is_reported_at_its_first_packet(self):
        self.assertEqual(self.read(FIRST[:1]), "1")

    def test_any_packets_but_one_may_be_lost(self):
        for style in ({}, {"step": 160}, {"end_step": 160}, {"marker": False}):
            packets = press(9, 1, 1000, **style)
            for mask in range(1, 2 ** len(packets)):
                self.setUp()
                some = [packet for n, packet in enumerate(packets) if mask >> n & 1]
                self.assertEqual(self.read(some), "9", (style, some))

    def test_another_source_is_another_press(self):
        self.assertEqual(self.read(FIRST) + self.read(FIRST, ssrc=8) + self.read(FIRST[5:]), "11")

    def test_all_keys_and_nothing_else_is_a_key(self):
        told = self.read((n, True, n * 9000, event(n, 160)) for n in range(20))
        self.assertEqual(told, "0123456789*#ABCD")
        self.assertEqual(self.read([(30, True, 10 ** 6, b"\1\2\3"), (31, True, 10 ** 6, b"")]), "")


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
                ("application/dtmf", b"10", "*"), ("application/dtmf", b"16", ""),
                ("application/dtmf-relay", b"Signal=12\r\n", "A"),
                ("application/telephone-event", b"5\r\n", "5"),
                ("audio/telephone-event", b"*", "*"),
                ("application/telephone-event", b"11 0 160", "#"),
                ("application/telephone-event", b"Signal=#\r\nDuration=250\r\n", "#"),
                ("application/telephone-event", b"Duration=250\r\n", ""),
                ("application/vnd.nortelnetworks.digits",
                 b"p=Digit-Collection\r\ny=Digits\r\nd=Digits=5\r\n", "5"),
                ("application/vnd.nortelnetworks.digits", b"y=Digits\nd=Digits=12*#\n", "12*#"),
                ("application/vnd.nortelnetworks.digits", b"d=7\r\nd=160\r\n", "7"),
                ("application/vnd.nortelnetworks.digits", b"d=Digits=" + b"1" * 999, ""),
                ("application/vnd.nortelnetworks.digits", b"d=Digits=x", ""),
                ("application/media_control+xml", b"1", None), ("", b"1", None)):
            self.assertEqual(info_keys(kind, body), key, (kind, body))

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
        told = [reader.read(1, 10 * n + step, step == 0, 8000 * n, payload)
                for n, key in enumerate("0*9D")
                for step, payload in enumerate(event_payloads(key))]
        self.assertEqual("".join(told), "0*9D")

    def test_what_is_no_key_raises_value_error(self):
        for key in ("", "x", "12"):
            with self.assertRaises(ValueError):
                event_payloads(key)


if __name__ == "__main__":
    unittest.main()
