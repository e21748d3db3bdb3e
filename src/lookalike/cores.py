"""What the cores of a machine are for."""

import os


def worker_count(asked: int | None) -> int:
    """How many processes decode images: as many as were asked for, or one per free core, 8 at most."""
    return max(1, min(8, (os.cpu_count() or 1) - 1)) if asked is None else asked
