"""What `check` reports about the columns of a list: groups, splits, and columns that cannot be used."""

from collections import Counter, defaultdict

from ..data.sources import Source
from ..printing import are, counted, first_of, printable

SHOWN = 5
"""Number of groups that are named."""


def group_sizes(source: Source) -> dict[str, int] | None:
    """Number of images by group, from the column group of a list; None if it has none."""
    if source.groups is None:
        return None
    names = source.groups.names
    return {printable(names[n]): count for n, count in enumerate(source.groups.numbers.bincount().tolist()) if count}


def column_lines(source: Source) -> list[str]:
    """Lines about the splits of a list and its unusable columns."""
    lines = [f"columns     {field} are not used: {reason}" for field, reason in source.unusable.items()]
    if source.splits is None:
        return lines
    counts = source.splits.numbers.bincount(minlength=len(source.splits.names)).tolist()
    named = zip(map(printable, source.splits.names), counts)
    lines.append(f"splits      {first_of([f'{name} {n}' for name, n in named if n], SHOWN)}")
    if source.groups is None:
        return lines
    sides = defaultdict(set)
    for group, split in zip(source.groups.numbers.tolist(), source.splits.numbers.tolist()):
        sides[group].add(split)
    torn = {group for group, splits in sides.items() if len(splits) > 1}
    if torn:
        images = Counter(source.groups.numbers.tolist())
        names = [printable(source.groups.names[group]) for group in sorted(torn)]
        lines.append(
            f"            {counted(len(torn), 'group')} {are(len(torn))} in several splits, with "
            f"{counted(sum(images[group] for group in torn), 'image')}: {first_of(names, SHOWN)}. Results on them do "
            "not apply to new groups."
        )
    return lines
