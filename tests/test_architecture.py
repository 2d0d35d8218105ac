"""Who may import whom, and that nothing needs a package."""

import ast
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).parent.parent
MAY_IMPORT = {
    "codec": "g722", "config": "codec", "dtmf": "", "g722": "", "gate": "net", "jitter": "",
    "net": "", "recorder": "codec", "sip_utils": "", "vad": "",
    "sip_message": "sip_utils", "sip_response": "net sip_utils", "sip_transaction": "sip_utils",
    "sip_auth": "net sip_message sip_utils",
    "rtcp": "", "rtp_thread": "", "sdp": "codec", "rtp": "dtmf net rtcp rtp_thread sdp",
    "sip_tcp": "net",
    "conversation": "codec dtmf jitter vad", "bot": "codec config conversation recorder vad",
    "sip_dialog": "dtmf sip_response sip_transaction sip_utils",
    "sip_session_timer": "sip_message sip_utils",
    "sip_methods": "dtmf sip_dialog sip_message sip_response sip_session_timer sip_transaction "
                   "sip_utils",
    "calls": "bot net rtcp rtp rtp_thread sdp sip_dialog sip_message sip_methods sip_session_timer "
             "sip_transaction sip_utils",
    "server": "bot calls config gate net recorder sip_auth sip_dialog sip_message sip_methods "
              "sip_response sip_tcp sip_transaction sip_utils",
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


class Architecture(unittest.TestCase):
    def test_every_module_imports_only_what_it_may(self):
        modules = {path.stem for path in ROOT.glob("*.py")}
        self.assertEqual(modules - {"my_bot"}, set(MAY_IMPORT))  # README lets users write that one
        for name, allowed in MAY_IMPORT.items():
            ours = {module for module in imports(ROOT / f"{name}.py") if module in MAY_IMPORT}
            self.assertLessEqual(ours, set(allowed.split()), name)

    def test_signalling_and_media_meet_in_the_calls_alone(self):
        for name, allowed in MAY_IMPORT.items():
            if name.startswith("sip_"):
                self.assertFalse({"rtp", "sdp", "codec"} & set(allowed.split()), name)

    @unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "needs Python 3.10")
    def test_nothing_but_the_standard_library_is_needed(self):
        for name in MAY_IMPORT:
            others = set(imports(ROOT / f"{name}.py")) - set(MAY_IMPORT)
            self.assertLessEqual(others, set(sys.stdlib_module_names), name)

    def test_no_module_hides_one_of_the_standard_library(self):
        for name in ("codecs", "queue", "wave", "ssl", "signal", "calendar"):
            self.assertNotIn(name, MAY_IMPORT)


if __name__ == "__main__":
    unittest.main()
