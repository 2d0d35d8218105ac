"""Calls from real clients, SIPp and baresip, to `python server.py` over loopback.

Run alone with `python -m unittest discover -s tests/interop -t .`; INTEROP=0 skips them all.
"""
