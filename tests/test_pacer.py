"""The pacer, with a clock that is told the time and a sleep that passes it."""

import unittest

from pacer import BEHIND, TICK, Pacer


class Time:
    """Sleeps by going on; work(seconds) is what a tick takes."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Pacing(unittest.TestCase):
    def setUp(self):
        self.time, self.at = Time(), {}
        self.pacer = Pacer(self.time, self.time.sleep)
        self.pacer._running = True  # the test's thread will

    def add(self, name, times, work=0.0):
        """Add a tick that takes so many seconds of work and ends after so many times."""
        self.at[name] = []

        def tick():
            self.at[name].append(round(self.time.now - 100, 6))
            self.time.now += work
            return len(self.at[name]) < times

        self.pacer.add(tick)

    def test_ticks_come_every_20_ms_whatever_their_work_takes(self):
        self.add("one", 4, 0.003)
        self.pacer.run()
        self.assertEqual(self.at["one"], [0.020, 0.040, 0.060, 0.080])

    def test_many_keep_their_own_phase(self):
        self.add("one", 3, 0.001)
        self.time.now += 0.007
        self.add("two", 3, 0.001)
        self.pacer.run()
        self.assertEqual(self.at, {"one": [0.020, 0.040, 0.060], "two": [0.027, 0.047, 0.067]})

    def test_what_was_missed_is_made_up_for_but_not_a_long_stop(self):
        self.add("one", 4, 0.050)
        self.pacer.run()
        self.assertEqual(self.at["one"], [0.020, 0.070, 0.120, 0.170])  # due at 20, 40, 60, 80
        self.pacer._running = True
        self.add("two", 20)
        self.time.now += 10
        begun = self.time.now - 100
        self.pacer.run()
        late = [at for at in self.at["two"] if at <= begun + 1e-6]
        self.assertAlmostEqual(len(late), 1 + BEHIND / TICK, delta=1)

    def test_one_that_raises_is_served_no_more_and_the_others_are(self):
        def broken():
            raise ZeroDivisionError

        self.pacer.add(broken)
        self.add("one", 3)
        with self.assertLogs("pacer", "ERROR") as logged:
            self.pacer.run()
        self.assertEqual((len(logged.records), len(self.at["one"])), (1, 3))

    def test_the_thread_ends_with_the_last_and_begins_with_the_next(self):
        pacer = Pacer(sleep=lambda seconds: None, clock=self.time)
        done = []
        for _ in range(2):
            self.time.now += 1
            pacer.add(lambda: done.append(1))
            while pacer._running:
                self.time.now += TICK  # another thread's clock; nothing is waited for
        self.assertEqual(done, [1, 1])


if __name__ == "__main__":
    unittest.main()
