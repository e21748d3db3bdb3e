"""The message of a training that ran out of memory."""

from ..runs import Folder, Resolved
from .trial import advised, can_be_tried


def explained(run: Resolved, folder: Folder, step: int) -> str:
    """What an optimizer step, counted from 1, needed, and what would fit.

    Another process computes it, since this one may have no memory left.
    """
    general = (
        f"Out of memory in step {step}. Give micro-batches (--accumulate), --checkpoint-activations, or a smaller "
        "--batch-size."
    )
    if not can_be_tried(run):
        return general
    try:
        found = advised(run)
    except (RuntimeError, OSError, ValueError):
        return general
    lines = found.lines(step)
    resumes = next((change for change in found.changes if change.resumes), None)
    if folder.then() and resumes is not None:
        lines.append(f"Resume with: {folder.resume_command()} {' '.join(resumes.arguments)}")
    return "\n".join(lines)
