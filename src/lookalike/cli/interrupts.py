"""Ctrl-C during the imports of a command."""

import signal
import threading


def imported() -> None:
    """Restores Python's handling of Ctrl-C, once all imports are complete."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
