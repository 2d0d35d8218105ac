"""Signalling: transactions, dialogs, methods, session descriptions, admission, SIP over TCP.

It may import sip_message, sip_response, sip_utils and the ground floor of siprtp; never media.
"""
