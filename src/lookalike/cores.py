"""Number of worker processes."""

import os


def worker_count(requested: int | None) -> int:
    """Number of processes that decode images: as requested, or one per free core, at most 8."""
    return max(1, min(8, (os.cpu_count() or 1) - 1)) if requested is None else requested
