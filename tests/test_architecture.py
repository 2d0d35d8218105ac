"""Each module imports only what its folder may, and nothing needs a package."""

import ast
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).parent.parent
GROUND = "siprtp siprtp.agreement siprtp.config siprtp.dtmf siprtp.formats "\
         "siprtp.logs siprtp.sockets"
TOP = ("bot", "rtp", "server", "sip_message", "sip_response", "sip_utils")
# A key is a module or a folder; so is a name in its value. `siprtp` is the package itself.
MAY_IMPORT = {
    "siprtp": GROUND,
    "siprtp.process": "",
    "siprtp.call_table": "",
    "siprtp.bots.actions": "siprtp.sip",
    "siprtp.bots.arguments": "", "siprtp.bots.results": "",
    "siprtp.bots.loader": "bot siprtp.config siprtp.media",
    "siprtp.bots.service": "bot",
    "siprtp.upkeep": "siprtp.media",
    "sip_utils": "", "sip_message": "sip_utils", "sip_response": f"sip_utils {GROUND}",
    "siprtp.sip": f"siprtp.sip sip_message sip_response sip_utils {GROUND}",
    # rtp_echo_server reads a session description; nothing else in media or rtp may
    "rtp": f"siprtp.sip.sdp {GROUND}",
    "siprtp.media": f"siprtp.media rtp {GROUND}",
    "bot": f"siprtp.bots.arguments siprtp.bots.results siprtp.media {GROUND}",
    "siprtp.testing": "bot siprtp.bots.arguments siprtp.bots.results siprtp.bots.service "
                      f"siprtp.media {GROUND}",
    "siprtp.calls": "bot siprtp.bots.actions siprtp.bots.service siprtp.call_table siprtp.upkeep "
                    f"siprtp.sip siprtp.media sip_message sip_utils {GROUND}",
    "server": "bot siprtp.bots.loader siprtp.bots.service siprtp.calls siprtp.process siprtp.sip "
              f"sip_message sip_response {GROUND}",
}


def modules():
    """Yield (name, path) of every module that runs in the server."""
    for name in TOP:
        yield name, ROOT / f"{name}.py"
    for path in sorted((ROOT / "siprtp").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


NAMES = dict(modules())


def imports(path):
    """Yield the full name of each module a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in NAMES else node.module


def rule_of(name):
    """Return what a module may import: by its own row, or that of its folder."""
    while name not in MAY_IMPORT:
        name = name.rpartition(".")[0]
    return MAY_IMPORT[name].split()


def is_allowed(name, allowed):
    return any(name == row or (row != "siprtp" and name.startswith(row + ".")) for row in allowed)


class Architecture(unittest.TestCase):
    def test_every_module_imports_only_what_it_may(self):
        for name, path in NAMES.items():
            ours = {module for module in imports(path) if module in NAMES}
            for module in ours:
                self.assertTrue(is_allowed(module, rule_of(name)), f"{name} imports {module}")

    def test_every_row_names_modules_that_exist(self):
        for name, allowed in MAY_IMPORT.items():
            for module in (name, *allowed.split()):
                self.assertIn(module, NAMES)

    def test_signalling_and_media_meet_in_calls_alone(self):
        for name, path in NAMES.items():
            used = {module.rpartition(".")[0] for module in imports(path)}
            if {"siprtp.sip", "siprtp.media"} <= used:
                self.assertIn(name, ("siprtp.calls", "server"))

    @unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "needs Python 3.10")
    def test_nothing_but_the_standard_library_is_needed(self):
        for name, path in NAMES.items():
            others = {module.partition(".")[0] for module in imports(path) if module not in NAMES}
            self.assertLessEqual(others, set(sys.stdlib_module_names), name)

    def test_no_top_level_name_hides_one_of_the_standard_library(self):
        self.assertFalse(set(TOP) & set(getattr(sys, "stdlib_module_names", ())))


if __name__ == "__main__":
    unittest.main()
