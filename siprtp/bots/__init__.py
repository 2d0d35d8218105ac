"""Between the server and a bot: load it, run it, do what it asks, check and return its values.

`actions` may import siprtp.sip; the others may import `bot`, siprtp.media and the ground floor.
"""
