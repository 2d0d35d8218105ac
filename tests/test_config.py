"""Settings: defaults, and one clear line for each that can't be used."""

import tempfile
import unittest
from ipaddress import ip_network

from siprtp.config import SETTINGS, Config, ConfigError, help_text
from siprtp.formats import BY_NAME, DEFAULT


class Settings(unittest.TestCase):
    def test_an_empty_environment_gives_the_defaults(self):
        config = Config.from_env({"LOG_LEVEL": "", "PATH": "/bin"})
        self.assertEqual(config, (
            "127.0.0.1", "", 5060, (), {}, ("SHA-256", "MD5"), 2000, "auto",
            16384, 32767, 64, 0, 300, 5, "", DEFAULT, "on", "", "info"))

    def test_every_setting_is_read_and_has_a_line_of_help(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"alice:secret")
            file.flush()
            config = Config.from_env({
                "BIND_IP": " 0.0.0.0 ", "ADVERTISED_IP": "192.0.2.1", "SIP_PORT": "5070",
                "ALLOWED_PEERS": "198.51.100.7,2001:db8::/32", "SIP_RATE": "0",
                "SIP_PASSWORD_FILE": file.name, "SIP_DIGEST": "md5", "NAT": "OFF",
                "RTP_PORT_START": "20000", "RTP_PORT_END": "20010", "RTP_THREADS": "5",
                "MAX_CALLS": "3", "RTP_TIMEOUT": "0", "DRAIN_SECONDS": "60",
                "BOT": "examples.echo_bot:answer", "CODECS": "pcmu, PCMA",
                "SILENCE": "Off", "RECORD_DIR": "/tmp", "LOG_LEVEL": "DEBUG"})
        peers = ip_network("198.51.100.7"), ip_network("2001:db8::/32")
        self.assertEqual(config, (
            "0.0.0.0", "192.0.2.1", 5070, peers, {"alice": "secret"}, ("MD5",), 0,
            "off", 20000, 20010, 5, 3, 0, 60, "examples.echo_bot:answer",
            (BY_NAME["PCMU"], BY_NAME["PCMA"]), "off", "/tmp", "debug"))
        self.assertEqual([name.lower() for name, *_ in SETTINGS], list(Config._fields))
        for name, *_ in SETTINGS:
            self.assertIn(name, help_text())

    def test_a_bad_value_is_named(self):
        for name, value in (("BIND_IP", "localhost"), ("BIND_IP", "[::1]"),
                            ("BIND_IP", "224.0.0.1"),
                            ("ADVERTISED_IP", "0.0.0.0"), ("ADVERTISED_IP", "pbx.example"),
                            ("SIP_PORT", "65536"), ("SIP_PORT", "-1"), ("SIP_PORT", "5_060"),
                            ("SIP_PORT", "\u0665"), ("SIP_PORT", "9" * 5000),
                            ("RTP_PORT_START", "0"), ("RTP_PORT_END", "x"), ("MAX_CALLS", "1.5"),
                            ("RTP_TIMEOUT", "never"), ("ALLOWED_PEERS", "trunk.example"),
                            ("ALLOWED_PEERS", "192.0.2.1/24"), ("SIP_RATE", "-1"),
                            ("DRAIN_SECONDS", "-1"),
                            ("SIP_PORT", "00000000099999"), ("LOG_LEVEL", "loud"),
                            ("BOT", "my_bot"), ("BOT", "my_bot.py:answer()"), ("CODECS", "G729"),
                            ("CODECS", "PCMA,PCMA"), ("SIP_DIGEST", "SHA-1"), ("SILENCE", "maybe"),
                            ("NAT", "yes"),
                            ("RECORD_DIR", "/nowhere")):
            with self.subTest(name=name, value=value[:9]), self.assertRaisesRegex(
                    ConfigError, f"^{name}="):
                Config.from_env({name: value})

    def test_both_addresses_are_of_one_ip_version(self):
        config = Config.from_env({"BIND_IP": "::", "ADVERTISED_IP": "2001:db8::1"})
        self.assertEqual((config.bind_ip, config.reach_ip), ("::", "::1"))
        with self.assertRaisesRegex(ConfigError, "^ADVERTISED_IP="):
            Config.from_env({"BIND_IP": "::", "ADVERTISED_IP": "192.0.2.1"})

    def test_a_range_without_an_even_port_is_refused(self):
        for start, end in (("20002", "20000"), ("20001", "20001")):
            with self.assertRaisesRegex(ConfigError, "RTP_PORT_END"):
                Config.from_env({"RTP_PORT_START": start, "RTP_PORT_END": end})


if __name__ == "__main__":
    unittest.main()
