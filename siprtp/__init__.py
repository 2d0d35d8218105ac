"""The server behind the top-level modules: calls, settings, sockets, logs.

Only `calls` joins signalling (siprtp.sip) and media (siprtp.media). A bot imports `bot`,
and its tests import `siprtp.testing`; the rest may change.
"""

__version__ = "0.9.0"
