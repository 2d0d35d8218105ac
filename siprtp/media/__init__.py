"""Media: RTP sessions and their threads, the echo, RTCP, codecs, a bot's conversation, recordings.

It may import rtp and the ground floor of siprtp; never signalling.
"""
