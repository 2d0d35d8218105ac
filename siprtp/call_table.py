"""The call table: every dialog that is up, found by its ID; any thread may read it."""

import threading


class CallTable:
    """Dialogs by Call-ID, local tag and remote tag (RFC 3261 12)."""

    def __init__(self):
        self._lock = threading.Lock()
        self._dialogs = {}

    def add(self, dialog):
        with self._lock:
            self._dialogs[dialog.key] = dialog

    def remove(self, dialog):
        with self._lock:
            self._dialogs.pop(dialog.key, None)

    def find(self, request):
        """Return the dialog a request belongs to, or None."""
        key = request.header("Call-ID"), request.to_tag, request.from_tag
        with self._lock:
            return self._dialogs.get(key)

    def __len__(self):
        with self._lock:
            return len(self._dialogs)

    def __iter__(self):
        with self._lock:
            return iter(list(self._dialogs.values()))
