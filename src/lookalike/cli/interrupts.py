"""Ctrl-C and the garbage collector during the imports of a command."""

import gc
import signal
import threading


def imported() -> None:
    """Restores Python's handling of Ctrl-C and the garbage collector, once all imports are complete."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    collect_garbage()


def collect_garbage() -> None:
    """Turns the garbage collector on again, for all later objects, where `entry` turned it off."""
    if not gc.isenabled():
        gc.freeze()  # a million objects that stay, which loading processes share with this one, too
        gc.enable()
