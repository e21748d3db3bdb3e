"""Advice about runs and folders, trainings, comparisons, pictures and pages: each piece is followed, and works."""

import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import get_worker_info

import lookalike
from lookalike import cli, training
from lookalike.commands import digits, distill, finetune
from lookalike.commands.compare.cost_meter import spent
from lookalike.commands.compare.ranking import Accuracy, Training, rank
from lookalike.commands.compare.record import add_results
from lookalike.commands.compare.runner import _Work, compare
from lookalike.commands.compare.spec import Comparison
from lookalike.commands.compare.summary import recommendation, table
from lookalike.commands.report.page import page_content
from lookalike.commands.report.report import report, write
from lookalike.commands.show import show
from lookalike.data import open_source
from lookalike.durations import seconds_of
from lookalike.events import to_console
from lookalike.files import check_writable, named, nearest_folder, not_through_links, read_json, read_text
from lookalike.methods import get_method
from lookalike.places import refuse_folder
from lookalike.runs import (
    Diverged,
    Folder,
    Options,
    Run,
    read_run,
)
from lookalike.runs.lookup import check_encoder, classifier_of, weights_of
from lookalike.training import inputs, model, resolved, stages
from lookalike.training import start as training_start
from lookalike.training import timed as training_timed
from lookalike.training.health import Remedies
from lookalike.training.monitor import Probe
from lookalike.training.timing import Speed
from support import tiny
from support.calls import (
    Net,
    Rows,
    call,
    configured_on,
    damaged,
    distilled,
    epoch,
    folders,
    image,
    images,
    joined,
    noise,
    written,
)
from support.place import Place

# ---------------------------------------------------------------- runs


def folder(p: Place, name: str = "folder") -> Folder:
    (p.out / name).mkdir(exist_ok=True)
    return Folder(p.out / name)


def checked(p: Place, name: str = "folder", **options: bool) -> None:
    Folder(p.out / name).check(**({"resume": False, "overwrite": False} | options))


def locked_at(p: Place, name: str, use: Callable[[], object]) -> object:
    """Where this user may not write to a file or folder."""
    access = os.access
    with mock.patch("os.access", lambda other, mode: Path(other) != p.out / name and access(other, mode)):
        return use()


def read(p: Place, *lines: str, **more: object) -> Run:
    (p.out / "run.yaml").write_text("\n".join(lines))
    return read_run(p.out / "run.yaml", **more)  # type: ignore[arg-type]


def linked_checkpoints(p: Place) -> Path:
    made = folder(p)
    (p.out / "elsewhere").mkdir()
    made.checkpoints.symlink_to(p.out / "elsewhere")
    return made.checkpoints


def put_in_place(link: Path) -> bool:
    there = link.resolve()
    link.unlink()
    there.rename(link)
    return True


def huge(p: Place) -> Folder:
    made = folder(p)
    with open(made.metrics, "wb") as file:
        file.truncate(2**31 + 1)
    return made


def through(link: Path) -> None:
    """Adds to a file, as a run does to its log."""
    with named(link), open(link, "a", opener=not_through_links) as file:
        file.write("line")


def link(p: Place) -> Path:
    (p.out / "link").symlink_to(written(b"", p.out / "file"))
    return p.out / "link"


RUNS = {
    "an option without a value": call(
        lambda p: Options(out=""), r"Give --(\S+) a name, or leave it out",
        lambda p, found: Options(**{found[1]: "run"}), lambda p, found: Options(),
    ),
    "frozen epochs of random weights": call(
        lambda p: Options(frozen_epochs=1.0), r"Give --(init) the weights to start from",
        lambda p, found: Options(frozen_epochs=1.0, **{found[1]: str(p.run)}),
    ),
    "frozen epochs to the end": call(
        lambda p: Options(frozen_epochs=3.0, epochs=3, init="x"), r"Give --frozen-epochs (\S+) or so",
        lambda p, found: Options(frozen_epochs=float(found[1]), epochs=3, init="x"),
    ),
    "a folder in the place of a file": call(
        lambda p: check_writable(p.run), r"is a folder\. Give (\S+) a file",
        lambda p, found: check_writable(p.out / "a.csv")
    ),
    "a file in the place of a folder": call(
        lambda p: check_writable(written(b"", p.out / "a") / "b.csv", "--sheet"),
        r"cannot be written: \S+ is a file\. Give another (\S+)\.",
        lambda p, found: check_writable(p.out / "b.csv"),
    ),
    "a folder that may not be written to": call(
        lambda p: locked_at(p, "", lambda: check_writable(p.out / "b.csv")),
        r"is read-only for this user\. Give another (\S+)\.",
        lambda p, found: locked_at(p, "", lambda: check_writable(p.out.parent / "b.csv")),
    ),
    "a run's folder that is a file": call(
        lambda p: nearest_folder(written(b"", p.out / "a"), "--cache-dir"), r"is a file\. Give (\S+) another folder",
        lambda p, found: nearest_folder(p.out / "b", "--cache-dir"),
    ),
    "a run's folder that may not be written to": call(
        lambda p: locked_at(p, "", lambda: checked(p, "run")), r"cannot be written to\. Give --out another folder",
        lambda p, found: locked_at(p, "", lambda: Folder(p.out.parent / "new").check(resume=False, overwrite=False)),
    ),
    "a log that may not be written to": call(
        lambda p: locked_at(p, "folder/log.txt", lambda: written(b"", folder(p).log) and checked(p)),
        r"Make it writable, or give --out another folder", lambda p, found: folder(p).log.unlink() or checked(p),
        lambda p, found: checked(p, "another"),
    ),
    "no run to go on with": call(
        lambda p: checked(p, resume=True), r"Leave --resume out to start one", lambda p, found: checked(p)
    ),
    "a run that is there": call(
        lambda p: Folder(p.trained).check(resume=False, overwrite=False),
        r"Use --(resume) to continue it, --(overwrite) to replace it, or another --out",
        lambda p, found: Folder(p.trained).check(resume=True, overwrite=False),
        lambda p, found: Folder(p.trained).check(resume=False, overwrite=True), lambda p, found: checked(p),
    ),
    "a folder of something else": call(
        lambda p: image(p.out / "folder/a.png") and checked(p),
        r"is not empty and holds no run\. Give --out another folder",
        lambda p, found: checked(p, "another"),
    ),
    "a link in a run's folder": call(
        lambda p: linked_checkpoints(p) and checked(p),
        r"Replace the link by its target; the whole folder \S+ may be a link",
        lambda p, found: put_in_place(p.out / "folder/checkpoints") and checked(p),
        lambda p, found: (p.out / "whole").symlink_to(folder(p, "real").path) or checked(p, "whole"),
    ),
    "a folder of a file's name": call(
        lambda p: (folder(p).path / "metrics.jsonl").mkdir() or checked(p),
        r"is not a regular file\. Move it away, or give another --out",
        lambda p, found: (p.out / "folder/metrics.jsonl").rmdir() or checked(p), lambda p, found: checked(p, "another"),
    ),
    "rows without end": call(
        lambda p: huge(p).rows(), r"more than any run writes\. Move it away",
        lambda p, found: (p.out / "folder/metrics.jsonl").unlink() or Folder(p.out / "folder").rows(),
    ),
    "a link that would be written through": call(
        lambda p: through(link(p)), r"nothing is written through links: replace it by the file itself",
        lambda p, found: put_in_place(p.out / "link") and through(p.out / "link"),
    ),
    "a file that is none": call(
        lambda p: read_json(p.run, dict), r"is not a file\. Move it away, or replace it by the file",
        lambda p, found: read_json(written(b"{}", p.out / "a.json"), dict),
    ),
    "a text of another encoding": call(
        lambda p: read_text(written("é".encode("latin-1"), p.out / "a.json")), r"Save it as (UTF-8)",
        lambda p, found: read_text(written("é".encode(found[1]), p.out / "a.json")),
    ),
    "a time that is none": call(
        lambda p: seconds_of("90"), r"Give (\w+), (\w+), (\w+) or (\w+)\.$",
        lambda p, found: [seconds_of(time) for time in found.groups()],
    ),
    "no file of a run": call(
        lambda p: read_run(p.out / "none.yaml"), r"Give the run\.yaml of a run, or your own",
        lambda p, found: read_run(Folder(p.trained).run), lambda p, found: read(p, "method: simclr", "data: photos"),
    ),
    "a file that is no YAML": call(
        lambda p: read(p, "method: ["), r"is not valid YAML; correct it, or use the file of another run",
        lambda p, found: read(p, "method: simclr", "data: photos"), lambda p, found: read_run(Folder(p.trained).run),
    ),
    "a name that is a number": call(
        lambda p: read(p, "method: simclr", "data: photos", "5: 1"), r"is not a name of an option; put it in quotes",
        lambda p, found: quoted_name(p),
    ),
    "no method": call(
        lambda p: read(p, "data: photos"), r"Add a line like '(method: simclr)'",
        lambda p, found: read(p, "data: photos", found[1]),
    ),
    "no data": call(
        lambda p: read(p, "method: simclr"), r"Add a line like '(data: photos/)'",
        lambda p, found: read(p, "method: simclr", found[1]),
    ),
    "a method of somebody's own": call(
        lambda p: read(p, "method: mine:Method", "data: photos"),
        r"pass it from Python, read_run\(path, (method)=\.\.\.\)",
        lambda p, found: read(p, "method: mine:Method", "data: photos", **{found[1]: get_method("simclr")}),
    ),
    "a value of another type": call(
        lambda p: read(p, "method: simclr", "data: photos", "epochs: many"), r"Correct it, or leave that option out",
        lambda p, found: read(p, "method: simclr", "data: photos", "epochs: 3"),
        lambda p, found: read(p, "method: simclr", "data: photos"),
    ),
    "no encoder in a folder": call(
        lambda p: weights_of(folder(p).path), r"Give the folder of such a run, or a weights file",
        lambda p, found: weights_of(p.run), lambda p, found: check_encoder(str(p.weights)),
    ),
    "no encoder": call(
        lambda p: check_encoder("nowhere"),
        r"Give a run's folder, an encoder\.safetensors, .*an official weights file, (timm)/NAME, (torchvision)/NAME "
        r"or (torchhub)/NAME",
        lambda p, found: [check_encoder(str(path)) for path in (p.run, p.run / "encoder.safetensors", p.weights)],
        lambda p, found: [check_encoder(f"{found[i]}/resnet18") for i in (1, 2)],
        lambda p, found: check_encoder(f"{found[3]}/dino_vits16"),
    ),
    "no classifier": call(
        lambda p: classifier_of(p.out / "none"), r"Give the folder of a finetune run, its (classifier\.safetensors) or",
        lambda p, found: classifier_of(p.tuned), lambda p, found: classifier_of(p.tuned / found[1]),
    ),
    "a folder for the results": call(
        lambda p: refuse_folder(p.out, "a.json"), r"Give a file, such as (\S+)\.$",
        lambda p, found: refuse_folder(Path(found[1]), "a.json")
    ),
    "no run to report on": call(
        lambda p: report([]), r"runs is empty\. Give at least one folder",
        lambda p, found: report(p.run, out=p.out / "a.html", points=4),
        lambda p, found: report([p.run, p.tuned], out=p.out / "b.html"),
    ),
    "a report that is there": call(
        lambda p: report(p.run, out=written(b"", p.out / "a.html")), r"exists\. Give another \S+, or --(overwrite)",
        lambda p, found: report(p.run, out=p.out / "b.html"),
        lambda p, found: report(p.run, out=p.out / "a.html", **{found[1]: True}),
    ),
    "a folder without a run": call(
        lambda p: report(folder(p).path), r"Give the folder of a run or of a comparison", lambda p, found: report(p.run)
    ),
    "no run to draw": call(
        lambda p: lookalike.plot([], out=p.out / "a.png"), r"No run was given\. Give at least one run folder",
        lambda p, found: lookalike.plot(p.trained, out=p.out / "a.png"),
        lambda p, found: lookalike.plot([p.trained, p.trained], out=p.out / "b.png"),
    ),
    "curves that are there": call(
        lambda p: lookalike.plot(p.trained, out=written(b"", p.out / "a.png")),
        r"exists\. Give another \S+, or --(overwrite)",
        lambda p, found: lookalike.plot(p.trained, out=p.out / "b.png"),
        lambda p, found: lookalike.plot(p.trained, out=p.out / "a.png", **{found[1]: True}),
    ),
    "a run without a step": call(
        lambda p: lookalike.plot(p.run, out=p.out / "a.png"), r"Give the folder of a run with at least one step",
        lambda p, found: lookalike.plot(p.trained, out=p.out / "a.png"),
    ),
    "images that no command named": call(
        lambda p: noted(strangers(p)), r"To show them: (.+)$", lambda p, found: pasted(found[1])
    ),
    "images that are in no folder": call(
        lambda p: noted(of_a_dataset(p)), r"not in a folder or list\. Give (--images) FOLDER",
        lambda p, found: pasted(f"lookalike report {p.out}/folder {found[1]} {p.photos}"),
    ),
    "images of a relative path": call(
        lambda p: noted(relative(p)),
        r"relative to the folder in which the training was started: run the command there, or give (--images) FOLDER",
        lambda p, found: there(p, lambda: noted(relative(p))),
        lambda p, found: pasted(f"lookalike report {p.out}/folder {found[1]} {p.photos}"),
    ),
    "a page that could not be written": call(
        lambda p: unwritten(p), r"Try: (.+)$", lambda p, found: pasted(found[1])
    ),
    "pictures of images that cannot be read": call(
        lambda p: show(p.run, only_damaged(p), out=p.out / "a"), r"`lookalike (check)` reports why",
        lambda p, found: pasted(f"lookalike {found[1]} {p.out}/damaged --workers 0"),
    ),
    "an image without neighbours": call(
        lambda p: show(p.run, images(p.out / "one", 1), out=p.out / "a", what=["neighbours"]),
        r"Give a folder with more images",
        lambda p, found: show(p.run, images(p.out / "two", 2), out=p.out / "a", what=["neighbours"]),
    ),
    "pictures that are there": call(
        lambda p: show(p.run, p.photos, out=written(b"", p.out / "neighbours.png").parent, what=["neighbours"]),
        r"exists\. Give another \S+, or --(overwrite)",
        lambda p, found: show(p.run, p.photos, out=p.out / "a", what=["neighbours"]),
        lambda p, found: show(p.run, p.photos, out=p.out, what=["neighbours"], **{found[1]: True}),
    ),
    "a demo without a name": call(
        lambda p: os.chdir(folder(p).path) or demonstrated("."),
        r"Give one such as (runs/demo); the images are written next to it",
        lambda p, found: demonstrated(found[1]),
    ),
    "a demo in the folder of a run": call(
        lambda p: demonstrated(shutil.copytree(p.trained, p.out / "run"), overwrite=True),
        r"holds a run that is not a demo\. Give another --out",
        lambda p, found: demonstrated(p.out / "another"),
    ),
    "an earlier demo's images": call(
        lambda p: demonstrated(earlier(p)), r"Use --(overwrite) to replace them, or another --out",
        lambda p, found: demonstrated(p.out / "demo", overwrite=True), lambda p, found: demonstrated(p.out / "another"),
    ),
    "images beside a demo": call(
        lambda p: demonstrated(images(p.out / "demo-digits").parent / "demo"),
        r"not written by this demo\. Give another --out|^Give another --out\.$",
        lambda p, found: demonstrated(p.out / "another"),
    ),
}  # fmt: skip


def quoted_name(p: Place) -> None:
    """In quotes it is read as a name, and found to be none of an option."""
    with pytest.raises(ValueError, match="unknown key '5'"):
        read(p, "method: simclr", "data: photos", "'5': 1")


def pasted(command: str) -> None:
    """Carries out a command that a message gives."""
    words = shlex.split(command, comments=True)
    assert words[0] == "lookalike"
    with redirect_stdout(StringIO()):
        assert cli.main(words[1:]) == 0


def strangers(p: Place) -> Path:
    """A run that nobody of this machine made: it names images that were not named here."""
    made = folder(p)
    shutil.copytree(p.trained, made.path, dirs_exist_ok=True)
    made.run.write_text(re.sub(r"named_here:(\n *-.*)+", "named_here: []", made.run.read_text()))
    return made.path


def of_a_dataset(p: Place) -> Path:
    made = Folder(strangers(p))
    made.run.write_text(made.run.read_text().replace(f"data: {p.photos}", "data: <Photos>"))
    return made.path


def relative(p: Place) -> Path:
    """A run that began in the folder of the photos, and does not say so."""
    made = Folder(p.out / "folder")
    if not made.run.is_file():
        shutil.copytree(p.trained, made.path, dirs_exist_ok=True)
        text = made.run.read_text().replace(f"data: {p.photos}", f"data: {p.photos.name}")
        made.run.write_text(re.sub(r"  directory: .*\n", "", text))
    return made.path


def there(p: Place, use: Callable[[], str]) -> str:
    os.chdir(p.photos.parent)
    return use()


def noted(run: Path) -> str:
    """What a page says where it has no map."""
    _, content = page_content([run], None, 4, 0, lambda line: None)
    return "\n".join(content["report"]["mapNotes"])  # type: ignore[index]


def unwritten(p: Place) -> str:
    said: list[str] = []
    with mock.patch("lookalike.commands.report.html.rendered", side_effect=RuntimeError("no page today")):
        write(p.trained, say=said.append)
    return said[0]


def only_damaged(p: Place) -> Path:
    damaged(p)
    for file in (p.out / "damaged").glob("[0-9].png"):
        file.unlink()
    return p.out / "damaged"


def demonstrated(out: object, **options: bool) -> None:
    """The demo up to its training."""
    with mock.patch("lookalike.commands.digits._train_and_evaluate"):
        digits.train_on_digits(out, **({"epochs": 1, "seed": 0, "overwrite": False} | options))  # type: ignore[arg-type]


def earlier(p: Place) -> Path:
    written(b"Written by `lookalike demo` (seed 0)", p.out / "demo-digits/README.txt")
    return p.out / "demo"


# ---------------------------------------------------------------- trainings


def trained(
    p: Place, *options: str, method: str = "simclr", callbacks: tuple[Callback, ...] = (), **more: object
) -> str:
    """What a training of an epoch says."""
    said = StringIO()
    run = replace(configured_on(p, method, "--hidden-dim", "8", *options), **more)  # type: ignore[arg-type]
    with redirect_stdout(said):
        training.pretrain(run, callbacks)
    return said.getvalue()


def launched(p: Place, *options: str, ranks: int = 1, **variables: str) -> None:
    """A training of several processes, up to where they begin."""
    with (
        mock.patch.dict(os.environ, {"WORLD_SIZE": str(ranks)} | variables),
        mock.patch("lookalike.training.stages._pretrain"),
    ):
        training.pretrain(configured_on(p, "simclr", *options))


class Stop(Callback):
    """Ctrl-C in the second step."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)


def stopped(p: Place) -> str:
    said = StringIO()
    with redirect_stdout(said), pytest.raises(KeyboardInterrupt):
        training.pretrain(configured_on(p, "simclr", "--hidden-dim", "8"), [Stop()])
    return said.getvalue()


def wild(p: Place, *options: str) -> str:
    """A training whose loss is never finite."""
    return trained(p, "--temperature", "1e-30", *options)


def forgetful(p: Place, *options: str, told: tuple[float, ...] = (0.9, 0.4)) -> str:
    """A training whose probe says so."""
    with mock.patch.object(Probe, "__call__", side_effect=[torch.arange(40) < 40 * share for share in told]):
        return remembering(p, *options)


def remembering(p: Place, *options: str) -> str:
    return trained(p, "--init", str(p.trained), "--probe", *p.pair, "--overwrite", *options)


def bank(p: Place, method: str = "deepcluster_v2", *options: str) -> None:
    run = configured_on(p, method, *(() if method != "deepcluster_v2" else ("--bank", "1000")), *options)
    with mock.patch("lookalike.training.model.free_for_state", return_value=10**5):
        model.check_bank(run, 0)


def remembered(p: Place, **options: object) -> object:
    """The answers of a teacher that is asked once."""
    method = distilled(p, cache_teacher=options.pop("cache_teacher", True))
    run = replace(configured_on(p, "simclr"), cache_dir=str(p.out / "cache"), method=method.cfg, **options)
    return model.teacher_memory(run, open_source(p.photos), method)


def labels(p: Place, data: Path, method: str = "supcon") -> object:
    return inputs.open_images(replace(configured_on(p, method), data=str(data)))


def classed(p: Place, count: int, name: str = "rare") -> str:
    """What is said of two classes, of which one has so many images, or several."""
    images(p.out / "data/common")
    images(p.out / f"data/{name}", count or 3)
    return "\n".join(training_start._single_images(labels(p, p.out / "data"), 2))


def timed(p: Place, *options: str) -> str:
    with mock.patch("lookalike.training.timing.WARM_STEPS", 1), mock.patch("lookalike.training.timing.TIMED_STEPS", 1):
        return trained(p, "--overwrite", *options)


def steady(speed: Speed, steps: int) -> Speed:
    """A training whose steps take a second."""
    speed.start, speed.step, speed.probe, speed.steps_per_epoch, speed.batch_size = 0.0, 1.0, 0.0, steps, 8
    return speed


def planned(p: Place, *options: str, steps: int = 5) -> str:
    """What is said of a training for which there is so much time."""
    with mock.patch("lookalike.training.stages.measure", lambda run, speed: steady(speed, steps)):
        lines = training_timed.planned(configured_on(p, "simclr", *options), to_console, stages.measure).lines
    return "\n".join(lines)


TRAININGS = {
    "processes that were launched otherwise": call(
        lambda p: launched(p, ranks=2), r"Give (--devices) \(per node\) and (--nodes) as they were launched",
        lambda p, found: launched(p, found[1], "2", ranks=2),
        lambda p, found: launched(p, found[2], "2", ranks=2, MASTER_ADDR="here"),
    ),
    "nodes that nothing started": call(
        lambda p: launched_alone(p), r"by torchrun --nnodes (\S+) \.\.\. or srun",
        lambda p, found: launched(p, "--nodes", found[1], ranks=2, MASTER_ADDR="here"),
        lambda p, found: launched(p, "--nodes", found[1], ranks=2, SLURM_NTASKS="2", SLURM_PROCID="0"),
    ),
    "one image at a time": call(
        lambda p: trained(p, "--batch-size", "1"),
        r"the loss needs other images to compare with\. Give at least (2)\.",
        lambda p, found: trained(p, "--batch-size", found[1]),
    ),
    "one image for each process": call(
        lambda p: trained(p, "--batch-size", "2", "--devices", "2", method="moco_v2"),
        r"Give (--batch-size) (\S+) or more, or fewer (--devices)",
        lambda p, found: trained(p, "--batch-size", "2", found[3], "1", method="moco_v2"),
    ),
    "steps without finite gradients": call(
        wild, r"Check the images \(lookalike (check)\), and try a lower (--optim\.lr) or the method's own settings",
        lambda p, found: pasted(f"lookalike {found[1]} {p.photos} --workers 0"),
        lambda p, found: trained(p, found[2], "0.01", "--overwrite"),
    ),
    "steps whose speed is measured, without finite gradients": call(
        lambda p: wild_in_time(p),
        r"Try a lower (--optim\.lr), or give (--epochs) instead of --time to save the batches that led to it",
        lambda p, found: timed(p, "--time", "0.1s", found[1], "0.01"), lambda p, found: kept_views(p, found[2]),
    ),
    "a time and epochs": call(
        lambda p: trained(p, "--time", "1s", epochs=3),
        r"time is .+ they exclude each other\. Give the time of the training, or its epochs",
        lambda p, found: timed(p, "--time", "0.1s"), lambda p, found: trained(p, "--overwrite"),
    ),
    "a time that is shorter than an epoch": call(
        lambda p: planned(p, "--time", "3s"), r"Give a longer (--time), or fewer images",
        lambda p, found: planned(p, found[1], "6s"), lambda p, found: planned(p, found[1], "3s", steps=2),
    ),
    "one class to learn from": call(
        lambda p: labels(p, folders(p.out / "one", "a")),
        r"Give a folder with a sub-folder per class, or choose a method without labels",
        lambda p, found: labels(p, folders(p.out / "one", "a", "b")),
        lambda p, found: labels(p, p.out / "one/a", "simclr"),
    ),
    "classes of one image": call(
        lambda p: classed(p, 1), r"Add images, or leave such classes out", lambda p, found: classed(p, 2),
        lambda p, found: shutil.move(p.out / "data/rare", p.out / "left out") and classed(p, 0, "another"),
    ),
    "half precision without a GPU": call(
        lambda p: on_a_cpu("fp16"), r"Use (bf16) or (fp32)\.", lambda p, found: on_a_cpu(found[1]) and None,
        lambda p, found: on_a_cpu(found[2]) and None,
    ),
    "a teacher that nobody learns from": call(
        lambda p: training.resolve(replace(configured_on(p, "simclr"), teacher=Net()), 40),
        r"Give method=(Distill\.Config)\(\.\.\.\)",
        lambda p, found: training.resolve(replace(configured_on(p, "distill"), teacher=Net()), 40),
    ),
    "a bank that leaves no room": call(
        bank, r"Give a smaller (--out-dim), or choose a method without a bank, such as (swav)",
        lambda p, found: bank(p, "deepcluster_v2", found[1], "4"), lambda p, found: bank(p, found[2]),
    ),
    "answers that several machines would share": call(
        lambda p: remembered(p, nodes=2), r"--cache-teacher is a file .+\. Leave it out with --nodes",
        lambda p, found: remembered(p, nodes=2, cache_teacher=False), lambda p, found: remembered(p),
    ),
    "a run over its own encoder": call(
        lambda p: trained(p, "--init", str(p.trained), "--out", str(p.trained), "--overwrite"),
        r"whose weights it would replace\. Give another --out", lambda p, found: trained(p, "--init", str(p.trained)),
    ),
    "what an encoder knew, and forgets": call(
        forgetful, r"Try (--optim\.lr) (\S+) \(a tenth\)",
        lambda p, found: remembering(p, found[1], found[2], "--frozen-epochs", "0"),
    ),
    "what an encoder knew, and forgets while it is not frozen": call(
        forgetful, r", or (--frozen-epochs) (\S+) \(half of them\)",
        lambda p, found: remembering(p, found[1], found[2]),
    ),
    "a collapse": call(
        lambda p: collapsed(p), r"\(--on-collapse stop\)\. (\S+) has the metrics and what to try",
        lambda p, found: collapsed(p, *advised(Path(found[1]))) and None,
    ),
    "a method that does not suit": call(
        lambda p: Remedies().settings(), r"In short trainings `(\S+)` learns fastest; `lookalike (compare)` ranks",
        lambda p, found: get_method(found[1]) and compared(p),
    ),
    "a method that does not suit, and learns soonest elsewhere": call(
        lambda p: Remedies(method="lejepa").settings(),
        r"Another method may suit these images better: `lookalike (compare)` ranks", lambda p, found: compared(p),
    ),
    "a loading process that dies": call(
        lambda p: epoch(Rows(lambda i: dying(i)), 2, workers=1),
        r"Use fewer (--workers) \(now \S+\) or smaller batches, or give a container more shared memory: "
        r"docker run --shm-size",
        lambda p, found: epoch(Rows(lambda i: dying(i)), 2, workers=0),
    ),
    "a key with a slip": call(
        lambda p: read(p, "method: simclr", "data: photos", "temperatur: 0.2"), r"Did you mean ([^?]+)\?",
        lambda p, found: read(p, "method: simclr", "data: photos", f"{found[1]}: 0.2"),
    ),
    "a stop": call(
        stopped, r"Resume with: ([^\n]+)", lambda p, found: pasted(f"{found[1]} --no-report")
    ),
    "an encoder that never learns": call(
        lambda p: finetune.prepared(tuned(p, "--unfreeze-after", "1")),
        r"Give fewer, or (--frozen) for a linear probe",
        lambda p, found: finetune.prepared(tuned(p, "--unfreeze-after", "0.5")),
        lambda p, found: finetune.prepared(tuned(p, found[1])),
    ),
    "an encoder that rests at first, and a time": call(
        lambda p: finetune.prepared(tuned(p, "--unfreeze-after", "1", "--time", "1s")),
        r"Give (--epochs) instead of --time",
        lambda p, found: finetune.prepared(tuned(p, "--unfreeze-after", "1", found[1], "3")),
    ),
    "a classifier over its own encoder": call(
        lambda p: finetune.prepared(tuned(p, out=str(p.run), overwrite=True)),
        r"is the encoder's own folder\. Give another one",
        lambda p, found: finetune.prepared(tuned(p)),
    ),
    "no encoder to tune": call(
        lambda p: finetune.prepared(tuned(p, init=None)),
        r"Give ENCODER: a run folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME",
        lambda p, found: finetune.prepared(tuned(p)),
        lambda p, found: finetune.prepared(tuned(p, "--encoder-backbone", tiny.CNN, init=str(p.weights))),
    ),
    "nothing to be judged on": call(
        lambda p: finetune.prepared(tuned(p), ""), r"Give (TEST), the fraction of a random split with",
        lambda p, found: finetune.prepared(tuned(p), p.pair[1]),
    ),
    "a module whose size is not known": call(
        lambda p: finetune.prepared(tuned(p, init=None, backbone=Net(), image_size=None)),
        r"The image size of a module of your own is unknown\. Give (image_size)",
        lambda p, found: finetune.prepared(tuned(p, init=None, backbone=Net(), **{found[1]: 32})),
    ),
    "another method to be tuned by": call(
        lambda p: finetune.train_and_evaluate(configured_on(p, "simclr", "--hidden-dim", "8")),
        r"FineTune\.Config, but the run has .+ Use lookalike\.(pretrain)",
        lambda p, found: vars(lookalike.training)[found[1]](configured_on(p, "simclr", "--hidden-dim", "8")) and None,
    ),
    "another method to be taught by": call(
        lambda p: distill.distill(configured_on(p, "simclr", "--hidden-dim", "8")),
        r"Distill\.Config, but the run has .+ Use lookalike\.(pretrain)",
        lambda p, found: vars(lookalike.training)[found[1]](configured_on(p, "simclr", "--hidden-dim", "8")) and None,
    ),
}  # fmt: skip


WILD = {"--optim.name": "adamw", "--optim.lr": "30", "--optim.warmup-epochs": "0"}


def collapsed(p: Place, *left: str) -> str:
    """A training with steps that are far too long, but for the options that are left out."""
    wild = [word for option, value in WILD.items() if option not in left for word in (option, value)]
    more = ["--overwrite"] if left else []
    said, run = StringIO(), configured_on(p, "simclr", "--backbone", "test_vit", "--epochs", "2", *wild, *more)
    # so that ten steps on 40 images are enough here, whatever the machine rounds
    worse = mock.patch("lookalike.training.health._may_be_worse", return_value=True)
    with mock.patch("lookalike.training.health.SETTLED", 5), worse, redirect_stdout(said):
        training.pretrain(replace(run, on_collapse="stop"))
    return said.getvalue()


def advised(log: Path) -> list[str]:
    """The options that a run's log says to leave out after a collapse."""
    found = re.search(r"collapsed: .+ Leave (.+) out: the method's own settings", log.read_text())
    return re.findall(r"--[\w.-]+", found[1])


def dying(i: int) -> np.ndarray:
    """An image, on which a process that loads images is killed."""
    if get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return noise(16, 16, 3, seed=i)


def launched_alone(p: Place) -> None:
    with mock.patch("lookalike.training.stages._pretrain"):
        training.pretrain(configured_on(p, "simclr", "--nodes", "2"))


def wild_in_time(p: Place) -> str:
    """The same where its speed is measured first: two such steps are enough here."""
    with mock.patch("lookalike.training.checkpoints.MOST_SKIPPED", 2):
        return wild(p, "--time", "1s")


def kept_views(p: Place, option: str) -> None:
    """With epochs the views that no gradient was finite of are kept."""
    with pytest.raises(Diverged):
        wild(p, option, "4", "--overwrite")
    assert [*Folder(p.out / "made").checkpoints.glob("nonfinite-*.safetensors")]


def on_a_cpu(precision: str) -> str:
    with mock.patch("torch.cuda.is_available", return_value=False):
        return resolved.precision_of(Options(precision=precision))  # type: ignore[arg-type]


def tuned(p: Place, *options: str, **more: object) -> Run:
    run = configured_on(p, "finetune", *options)
    own = {"data": p.pair[0], "init": str(p.run), "image_size": None, "method": replace(run.method, test=p.pair[1])}
    return replace(run, **(own | more))  # type: ignore[arg-type]


# ---------------------------------------------------------------- comparisons


def asked(p: Place, **more: object) -> Comparison:
    own: dict[str, object] = {
        "data": str(p.photos), "methods": ("simclr",), "train": (p.pair[0],), "test": (p.pair[1],),
        "backbone": tiny.CNN,
        "image_size": 32, "batch_size": 8, "workers": 0, "epochs": 1, "seeds": 1, "protocols": ("knn",),
        "out": str(p.out / "compare"),
    }  # fmt: skip
    return Comparison(**(own | more))  # type: ignore[arg-type]


def compared(p: Place, **more: object) -> str:
    said = StringIO()
    # what is on its heap is no part of a training's memory; to find it takes seconds in a process of many tests
    with redirect_stdout(said), mock.patch("lookalike.commands.compare.cost_meter.gc.collect"):
        compare(asked(p, **more))
    return said.getvalue()


class Begun(Exception):
    """A comparison has begun its work."""


def begun(p: Place, **more: object) -> str:
    """What a comparison says until it begins to measure and to train."""
    said = StringIO()
    with (
        redirect_stdout(said),
        mock.patch("lookalike.commands.compare.runner._Work.do", side_effect=Begun),
        suppress(Begun),
    ):
        compare(asked(p, **more))
    return said.getvalue()


def there_already(p: Place) -> Path:
    """A comparison that is complete."""
    once = p.trained.parent / "compare"
    if not once.is_dir():
        compared(p, out=str(once))
    return Path(shutil.copytree(once, p.out / "compare"))


def tried_out(p: Place, **more: object) -> str:
    """What is said of methods before any is trained."""
    said = StringIO()
    with redirect_stdout(said):
        work = _Work(asked(p, overwrite=True, **more), folder(p, "compare").path, ())
        for method in work.asked.methods:
            work._try_out(method)
    return said.getvalue()


def fitted(p: Place, budget: str, steps: int = 5) -> str:
    """What is said of a method whose steps take a second."""
    said = StringIO()
    with redirect_stdout(said):
        work = _Work(asked(p, budget=budget, overwrite=True), folder(p, "compare").path, ())
        work.speeds["simclr"] = steady(Speed(seconds_of(budget)), steps)
        work._epochs("simclr")
    return said.getvalue()


def tabled(*columns: str) -> None:
    """What to choose by stands in the table: seconds, GiB, and remarks about what is not stable."""
    head, *_ = table(rank(trainings(CLOSE, (), 3)), [], trainings(CLOSE, (), 3))
    assert {"time", "GiB", "remark"} <= {*head.split()}
    assert {*columns} <= {"time", "stability"}


def ranked(
    *scores: tuple[str, float], linear: tuple[float, ...] = (), untrained: float | None = None, seeds: int = 3
) -> str:
    """What is said of methods with these scores, of as many seeds."""
    rows = trainings(scores, linear, seeds)
    own = {"knn": {"test": Accuracy(untrained or 0.0, 1.0, ((untrained or 0.0) - 0.01, (untrained or 0.0) + 0.01))}}
    return recommendation(rank(rows), rows, [] if untrained is None else [own] * seeds)


def trainings(scores: Sequence[tuple[str, float]], linear: tuple[float, ...], seeds: int) -> list[Training]:
    rows = []
    for seed in range(seeds):
        for i, (method, score) in enumerate(scores):
            own = {"knn": score} | ({"linear": linear[i]} if linear else {})
            results = {name: {"test": Accuracy(v + 0.002 * seed, 1.0, (v - 0.01, v + 0.01))} for name, v in own.items()}
            done = Training(
                method=method, seed=seed, folder="", status="done", epochs=1, steps=1, seconds=60.0 + i,
                images_per_s=1.0, verdict="learning", results=results,
            )  # fmt: skip
            rows.append(done)
    return rows


CLOSE = (("byol", 0.5), ("simclr", 0.5005))
COMPARISONS = {
    "a first protocol that tells no classes apart": call(
        lambda p: asked(p, protocols=("label-free", "knn")), r"Put another one before it, such as (knn)\.",
        lambda p, found: asked(p, protocols=(found[1], "label-free")),
    ),
    "tests without their train": call(
        lambda p: asked(p, train=("a", "b"), test=("c", "d", "e")),
        r"Give one --train for all tests, or one for each, in the same order",
        lambda p, found: asked(p, train=("a",), test=("c", "d", "e")),
        lambda p, found: asked(p, train=("a", "b"), test=("c", "d")),
    ),
    "a teacher of no method": call(
        lambda p: asked(p, teacher=str(p.run)), r"Add (distill) to the methods",
        lambda p, found: asked(p, methods=("simclr", found[1]), teacher=str(p.run))
    ),
    "the architecture of no teacher": call(
        lambda p: asked(p, teacher_backbone=tiny.CNN), r"but teacher is not\. Give --(teacher)\.",
        lambda p, found: asked(p, methods=("distill",), teacher_backbone=tiny.CNN, **{found[1]: str(p.weights)}),
    ),
    "several devices": call(
        lambda p: asked(p, devices=2), r"Leave them out, and choose the GPU with CUDA_VISIBLE_DEVICES",
        lambda p, found: asked(p)
    ),
    "a probe": call(
        lambda p: asked(p, probe=("a", "b")), r"probe would use time of the budget\. Leave it out",
        lambda p, found: asked(p),
    ),
    "the time of a training": call(
        lambda p: asked(p, time="1min"), r"Give --(budget), the time of each training",
        lambda p, found: asked(p, **{found[1]: "1min"})
    ),
    "a method of labels": call(
        lambda p: asked(p, methods=("simclr", "finetune")), r"no representation of its own to compare\. Leave it out",
        lambda p, found: asked(p)
    ),
    "nothing to compare": call(
        lambda p: asked(p, methods=()), r"is empty\. Give at least one", lambda p, found: asked(p),
    ),
    "methods that are hardly different": call(
        lambda p: ranked(*CLOSE), r"choose among them by (\w+), memory or (stability)|choose among them by \W\.$",
        lambda p, found: tabled(*found.groups())
    ),
    "methods that one protocol tells apart": call(
        lambda p: ranked(*CLOSE, ("moco_v2", 0.5), linear=(0.5, 0.5, 0.1)),
        r"Choose among .+ by (\w+), memory or (stability)\.|^Choose among \W by \W\.$",
        lambda p, found: tabled(*found.groups()),
    ),
    "methods that are no better than none": call(
        lambda p: ranked(*CLOSE, untrained=0.5), r"give a larger (budget), and do not choose by this table",
        lambda p, found: asked(p, **{found[1]: "2h"}), lambda p, found: ranked(*CLOSE, untrained=0.2),
    ),
    "a method twice": call(
        lambda p: asked(p, methods=("simclr", "simclr")), r"twice\. Leave one of them out", lambda p, found: asked(p)
    ),
    "a protocol that there is not": call(
        lambda p: begun(p, protocols=("nn",)), r"Unknown protocol \S+\. Choose from ([^,.]+)",
        lambda p, found: begun(p, protocols=(found[1],))
    ),
    "a folder that holds a run": call(
        lambda p: begun(p, out=str(p.trained)), r"contains a run\. Give --out another folder", lambda p, found: begun(p)
    ),
    "no comparison to go on with": call(
        lambda p: begun(p, resume=True), r"Leave --resume out to start", lambda p, found: compared(p)
    ),
    "test images among those to learn from": call(
        lambda p: begun(p, data=p.pair[1]),
        r"do not measure performance on new images\. Leave them out of DATA",
        lambda p, found: begun(p, data=p.pair[0]),
    ),
    "labels of the test images": call(
        lambda p: tried_out(p, data=p.pair[1], methods=("simclr", "supcon")),
        r"the test labels would be known\. Leave them out of DATA, or leave (\S+) out",
        lambda p, found: tried_out(p, data=p.pair[0], methods=("simclr", "supcon")),
        lambda p, found: tried_out(p, data=p.pair[1]),
    ),
    "weights in a comparison that is replaced": call(
        lambda p: begun(p, init=f"{there_already(p)}/simclr-seed0", overwrite=True),
        r"is inside the comparison that --overwrite replaces\. Copy it, or give another --out",
        lambda p, found: begun(
            p, overwrite=True, init=str(shutil.copytree(p.out / "compare/simclr-seed0", p.out / "copy"))
        ),
        lambda p, found: begun(p, init=f"{p.out}/compare/simclr-seed0", out=str(p.out / "another")),
    ),
    "a training's folder that is a link": call(
        lambda p: through_a_link(p), r"(\S+) is a link\. Remove it, or replace it by the folder it points to",
        lambda p, found: Path(found[1]).unlink() or compared(p, overwrite=True, seeds=2, protocols=("retrieval",)),
        lambda p, found: through_a_link(p) and put_in_place(Path(found[1])) and compared(p, overwrite=True, seed=5),
    ),
    "a budget that is shorter than an epoch": call(
        lambda p: fitted(p, "3s"), r"Give a larger --budget, or fewer images", lambda p, found: fitted(p, "6s"),
        lambda p, found: fitted(p, "3s", steps=2),
    ),
    "a result that has two names": call(
        lambda p: judged_twice(0.1, 0.1), r"Give protocols whose results have different names",
        lambda p, found: judged_twice(0.1, 0.2)
    ),
    "a comparison's file that is damaged": call(
        lambda p: begun(p, out=str(written(b"[", p.out / "compare/compare.json").parent)),
        r"Move it away, or give another --out\.$",
        lambda p, found: begun(p, out=str(p.out / "another")),
        lambda p, found: (p.out / "compare/compare.json").unlink() or begun(p),
    ),
    "a comparison that asked something else": call(
        lambda p: there_already(p) and begun(p, protocols=("retrieval",)),
        r"Give another --out, or --(overwrite) to replace it\. Only methods and (seeds) can be added",
        lambda p, found: begun(p, protocols=("retrieval",), out=str(p.out / "another")),
        lambda p, found: compared(p, seeds=2),
        lambda p, found: begun(p, methods=("simclr", "byol"), seeds=2),
        lambda p, found: begun(p, protocols=("retrieval",), **{found[1]: True}),
    ),
    "one seed": call(
        lambda p: ranked(*CLOSE, seeds=1), r"Give --seeds (3) before you rely on the order",
        lambda p, found: ranked(*CLOSE, seeds=int(found[1]))
    ),
    "a training that went on elsewhere": call(
        lambda p: gone_on(p), r"Remove (\S+), and repeat the command",
        lambda p, found: shutil.rmtree(found[1]) or begun(p)
    ),
    "a comparison of another format": call(
        lambda p: report(written(b'{"format": 2}', p.out / "old/compare.json").parent),
        r"repeat it with `lookalike (compare)` and another --out",
        lambda p, found: report(there_already(p), points=4), lambda p, found: begun(p, out=str(p.out / "another")),
    ),
}  # fmt: skip


def through_a_link(p: Place) -> str:
    """A comparison whose training would be written into a linked folder."""
    out = p.out / "compare"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(there_already(p) / "simclr-seed0")
    (p.out / "elsewhere").mkdir(exist_ok=True)
    (out / "simclr-seed0").symlink_to(p.out / "elsewhere")
    said = StringIO()
    with redirect_stdout(said):
        work = _Work(asked(p, overwrite=True, protocols=("retrieval",)), out, ())
        work.ready["simclr"] = work._run("simclr", 0, 1, out / "simclr-seed0"), None
        with pytest.raises(FileExistsError) as refused:
            work._train(0)
    return str(refused.value)


def judged_twice(*shares: float) -> object:
    entries = [
        mock.Mock(protocol="semi", settings={"share": share}, top1=0.5, top5=1.0, interval=(0.4, 0.6))
        for share in shares
    ]
    found: dict[str, dict[str, Accuracy]] = {}
    add_results(found, "test", entries)
    return None


def gone_on(p: Place) -> object:
    """A training of a comparison that somebody went on with by himself."""
    out = there_already(p) / "simclr-seed0"
    shutil.rmtree(out)
    shutil.copytree(p.trained, out)
    return spent(Folder(out).last)


CALLS = joined(RUNS, TRAININGS, COMPARISONS)
