"""Keeps a fault that repeats from filling the log.  Imports: standard library only."""

import logging
import threading

MOST, SECONDS = 10, 60.0  # so many warnings alike in so much time
TEXTS = 1000  # kept at a time: those of bots may be of any number


class LogQuota(logging.Filter):
    """Lets MOST warnings alike in SECONDS pass; the next that does tells how many did not.

    Alike are those of one text, whatever its values. For a handler; any thread may log.
    """

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()
        self._texts = {}  # text: (since when, how many)

    def filter(self, record):
        if record.levelno < logging.WARNING:
            return True
        text = str(record.msg)
        with self._lock:
            since, count = self._texts.get(text, (record.created, 0))
            if not 0 <= record.created - since < SECONDS:  # the time of day may be set back
                if count > MOST:
                    record.msg = f"{text} ({count - MOST} more like it were not logged)"
                since, count = record.created, 0
            if len(self._texts) >= TEXTS:
                self._texts.clear()
            self._texts[text] = since, count + 1
        return count < MOST
