"""The images of a run, and whether they are the ones that it started with."""

import os
from collections.abc import Mapping
from contextlib import suppress

from .. import encoders
from ..data import Source, image_set, only_chosen, open_source
from ..data.splits import open_split
from ..methods.finetune import FineTune
from ..places import exists
from ..printing import LONGEST_PATH, brief, pasteable
from ..runs import Folder, Resolved, Run, flat, inputs
from .checkpoints import weights_digest
from .monitor import Probe


def as_begun(
    source: Source, run: Run, folder: Folder, before: Mapping[str, object], begun: Mapping[str, bytes]
) -> Source:
    """The images under the names that they had at the start of a run, even if they have moved."""
    now, then, old = source.listing(), begun.get("data"), before.get("data")
    if now is None:
        return source
    if then is not None:
        found = inputs.renamed(now, then)
        return source if found is None or now == then else source.called(*found)
    if isinstance(old, str) and isinstance(run.data, str | os.PathLike) and os.path.isfile(run.data):
        # version 0.1 stored no names: those in a list are relative to the list's own folder
        seen = source.called(source.seen_from(os.path.dirname(os.path.abspath(old))))
        for path in (folder.last, folder.before):
            with suppress(Exception):  # `find_checkpoint` reports the error
                if encoders.unpickled(path)["lookalike"]["data"] == image_set(seen):
                    return seen
    return source


def probe_of(run: Resolved, folder: Folder, before: Mapping[str, object], begun: Mapping[str, bytes]) -> Probe | None:
    """The probe of a run. If a resumed run's probe is missing, a warning is printed and it is left out.

    Raises:
        ValueError: the resumed run had other images.
    """
    if run.probe is None:
        return None
    is_same = list(run.probe) == before.get("probe")
    if is_same and (gone := [place for place in run.probe if not exists(place)]):
        command = pasteable(*folder.resume_words(), "--probe", "TRAIN", "TEST")
        folder.say(
            f"WARNING     {gone[0]}, of the probe, does not exist: training continues without the k-NN. If it has "
            f"moved, give its new path: {command}",
            "warning",
        )
        return None
    probe = Probe(*run.probe, run)
    old = before.get("probe")
    olds = old if isinstance(old, list) and len(old) == 2 else [None, None]
    for part, place, then in zip(("probe-train", "probe-test"), run.probe, olds):
        _check_same(folder, run, part, place, then, probe.listings, begun, "--probe None leaves it out")
    return probe


def _check_same(
    folder: Folder, run: Resolved, part: str, place: str, then: object, now: Mapping[str, bytes],
    begun: Mapping[str, bytes], choice: str,
) -> None:  # fmt: skip
    """Compares labelled images with those at the start of a run: a change in the same folder gives a warning.

    Args:
        part: their name in `inputs.zip`.
        place, now: their path, and their names and digests.
        then, begun: their earlier path, and what the run stored of them.
        choice: the alternative, for the error message.

    Raises:
        ValueError: they lie in another folder, and differ.
    """
    if part not in now or not isinstance(then, str):
        return
    old = {name: content for name, content in begun.items() if name in inputs.names_of(part)}
    elsewhere = os.path.realpath(then) != os.path.realpath(place)
    if part not in old and elsewhere:  # version 0.1 stored no names
        with suppress(OSError, ValueError):
            source = open_source(then, run.pixels, labelled=True, columns=run.columns, tiling=run.tiling)
            old = inputs.of(part, source.listing(), source.head, len(source))
    change = inputs.difference(now[part], old[part]) or inputs.changed(part, now, old) if part in old else ""
    if not change:
        return
    text = f"{place} holds other images than when {folder.path} started: {change}"
    if elsewhere:
        raise ValueError(f"{text}. Give the same images; {choice}.")
    folder.say(f"WARNING     {text}: results on them cannot be compared with the earlier ones.", "warning")


def listings_of(
    run: Resolved, folder: Folder, before: Mapping[str, object], begun: Mapping[str, bytes], source: Source,
    probe: Probe | None, is_resumed: bool,
) -> dict[str, bytes]:  # fmt: skip
    """What is stored of a run's images and initial weights; a resumed run keeps what it had stored.

    Args:
        is_resumed: whether the run is resumed.

    Raises:
        ValueError: the resumed run had another test.
    """
    test = vars(run.method).get("test")
    found = inputs.of("data", source.listing(), source.head, len(source)) | (probe.listings if probe else {})
    if isinstance(test, str) and test:
        tested = open_source(test, run.pixels, labelled=True, columns=run.columns, tiling=run.tiling)
        found |= inputs.of("test", tested.listing(), tested.head, len(tested))
        _check_same(folder, run, "test", test, before.get("test"), found, begun, "another test needs a new run")
    if run.init and (digest := weights_digest(run.init)):
        found["init"] = digest.encode()
    if is_resumed:
        found |= {name: listing for name, listing in begun.items() if run.probe or not name.startswith("probe-")}
    return found


def open_images(run: Run, system_folders: bool = False) -> Source:
    """The images of a run, with labels if the method learns from them; see `open_source` and `only_chosen`."""
    source = _open_images(run, system_folders)
    # a part of the images was chosen from those of `only`
    return source if run.only is None or _splits(run) else only_chosen(source, run.only)


def _splits(run: Run) -> bool:
    """Whether a fine-tuning is evaluated on a part of its images, which are then no training images."""
    return isinstance(run.method, FineTune.Config) and run.method.splits_train


def _open_images(run: Run, system_folders: bool) -> Source:
    method, needs = run.method.method, run.method.needs
    if not needs.labels:
        return open_source(run.data, run.pixels, system_folders=system_folders, columns=run.columns, tiling=run.tiling)
    try:
        if _splits(run):
            assert isinstance(run.method, FineTune.Config)
            return open_split(
                run.data, pixels=run.pixels, columns=run.columns, only=run.only, holdout=run.method.holdout or None,
                seed=run.seed, tiling=run.tiling, classes=needs.classes,
            ).train  # fmt: skip
        source = open_source(
            run.data, run.pixels, labelled=True, classes=needs.classes, system_folders=system_folders,
            columns=run.columns, tiling=run.tiling,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{method.__name__} learns from labels. {error}") from None
    if source.labels is not None and int(source.labels.min()) == int(source.labels.max()):
        raise ValueError(
            f"{method.__name__} learns from labels, but all images of {brief(flat(run)['data'], LONGEST_PATH)} are of "
            "one class. Give a folder with a sub-folder per class, or choose a method without labels."
        )
    return source


def with_system_folders(folder: Folder, run: Run, source: Source) -> Source:
    """The images of a resumed run: version 0.1 included those in system folders, such as @eaDir."""
    if not source.system_folders:
        return source
    every = open_images(run, system_folders=True)
    for path in (folder.last, folder.before, *folder.kept()):
        with suppress(Exception):  # `find_checkpoint` reports the error
            return every if encoders.unpickled(path)["lookalike"]["data"] == image_set(every) else source
    return source
