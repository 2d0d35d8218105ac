"""The benchmark runs, and distinguishes a good run from a bad one; its figures are not tested."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

RUN = pathlib.Path(__file__).parent.parent / "bench" / "run.py"
GOOD = {"started": 5, "failed": 0, "refusal": 0, "sent": 900, "lost": 0, "lossy": 0, "bad": 0}


@unittest.skipUnless(sys.platform == "linux", "needs Linux")
class Bench(unittest.TestCase):
    def faults(self, **figures):
        spec = importlib.util.spec_from_file_location("bench_run", RUN)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.faults("it", dict(GOOD, **figures))

    def test_a_run_without_loss_or_failed_calls_has_no_faults(self):
        self.assertEqual(self.faults(), [])

    def test_a_lost_packet_and_a_refused_call_are_faults(self):
        self.assertEqual(self.faults(lost=1, lossy=1, failed=2, refusal=486),
                         ["it: 2 of 5 calls failed, the last by 486",
                          "it: 1 of 900 packets lost, in 1 calls"])

    @unittest.skipUnless(shutil.which("gcc") and os.environ.get("INTEROP") != "0", "needs gcc")
    def test_a_small_run_compares_the_server_with_the_echo(self):
        run = subprocess.run([sys.executable, str(RUN), "--calls", "3", "--seconds", "0.5"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        said = run.stdout.decode()
        self.assertEqual(run.returncode, 0, said)
        self.assertRegex(said, r"calls established +\| 3 +\| 3 ")
        self.assertRegex(said, r"round trip p99, ms +\| [\d.]+ +\| [\d.]+ +\| [\d.]+ ")


if __name__ == "__main__":
    unittest.main()
