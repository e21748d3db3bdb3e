"""Ctrl-C while a command imports what it needs."""

import signal
import threading


def imported() -> None:
    """Hands Ctrl-C back to Python: from here on a command ends as it will, and no import is cut off."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
