"""Views on the device: whether its engines agree with the CPU's, and how many they make per second.

`make_views` is timed from images that lie on the device, with the planning on the CPU; `planning` is that alone, and
`kernels_ms` is what the device itself works on one call, by torch's profiler. `share_of_bandwidth` is the least that
must be moved (each crop read once, each view written once) over that time, as a share of what a copy reaches.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from gpu_bench import Bench, copy_rate, in_turns, short, spread, words
from photographs import photographs
from recipes import MEAN, STD, kornias, torchvisions
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchvision.transforms import v2

from lookalike import views
from lookalike.methods import get_method
from lookalike.random import keys_of
from lookalike.views import SIMCLR_VIEW, View, make, make_views, resized
from lookalike.views.plan import draw, plan


class Case(NamedTuple):
    source: int
    """Side of the images."""
    batch: int
    recipe: Sequence[View]


ONE_BY_ONE = 16
"""Images that torchvision gets in a call: it takes them one after the other."""
COMPARED = 32
"""Images whose views are compared between the engines."""


def cases(tiny: bool) -> dict[str, Case]:
    dino = get_method("dino").Config().views  # type: ignore[call-arg]
    if tiny:
        return {"DINO 40 -> 2 x 32 + 8 x 14": Case(40, 4, resized(dino, 32, None))}
    return {
        "SimCLR 32 -> 32": Case(32, 1024, (dataclasses.replace(SIMCLR_VIEW, size=32, kernel=3),)),
        "SimCLR 256 -> 224": Case(256, 256, (SIMCLR_VIEW,)),
        "DINO 400 -> 2 x 224 + 8 x 96": Case(400, 128, dino),
    }


def run(bench: Bench) -> None:
    copied = copy_rate(bench)
    bench.row("copy", {"bytes_per_s": copied}, repeats=5)
    engines = usable(bench)
    for name, case in cases(bench.tiny).items():
        if bench.has(0 if bench.tiny else 8, name):
            with bench.trying(name):
                measure(bench, name, case, engines, copied[0])


def usable(bench: Bench) -> list[str]:
    """The device's engines; why its compiled one cannot be used is kept in a row."""
    engine = views.ENGINES[bench.device.type]
    if engine == "triton":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if not make._works(bench.device, torch.uint8, 3):
                bench.skip("Triton's kernels", " ".join(str(w.message) for w in caught))
                engine = "torch"
    return list(dict.fromkeys((engine, "torch")))


def ours(images: Tensor, recipe: Sequence[View], engine: str, **options: Any) -> Callable[[], list[Tensor]]:
    """`make_views` by one of its engines, with other draws in each call unless a `seed` is given."""
    rounds, fixed = iter(range(10**9)), options.pop("seed", None)

    def work() -> list[Tensor]:
        kept = views.ENGINES[images.device.type]
        views.ENGINES[images.device.type] = engine  # type: ignore[assignment]
        try:
            return make_views(images, recipe, next(rounds) if fixed is None else fixed, **options)
        finally:
            views.ENGINES[images.device.type] = kept

    return work


def planned(images: Tensor, recipe: Sequence[View]) -> list[views.Plan]:
    """What `make_views` decides on the CPU for a batch."""
    sizes = torch.tensor(images.shape[2:]).expand(len(images), 2)
    keys = keys_of(0, torch.arange(len(images)))
    single = [view for view in recipe for _ in range(view.count)]
    return [plan(view, sizes, draw(keys, number), True) for number, view in enumerate(single)]


def least_bytes(images: Tensor, recipe: Sequence[View]) -> int:
    """Each crop read once, each view written once."""
    _, c, _, _ = images.shape
    read = sum(int(plan.box[:, 2:].prod(1).sum()) for plan in planned(images, recipe)) * c * images.element_size()
    return read + sum(view.count * len(images) * c * view.size**2 * 4 for view in recipe)


def others(images: Tensor, recipe: Sequence[View]) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Other libraries on the device, and those that are not there."""
    few = images[:ONE_BY_ONE]
    steps = [v2.Compose([*a, *b]) for view in recipe for a, b in [torchvisions(view)] for _ in range(view.count)]
    found: dict[str, Callable[[], object]] = {
        "torchvision": lambda: [torch.stack([step(image) for image in few]) for step in steps]
    }
    try:
        batches = [kornias(view).to(images.device) for view in recipe for _ in range(view.count)]
    except Exception as error:  # it is not there, or another version
        return found, {"kornia": words(error)}
    found["kornia"] = lambda: [batch(images.to(torch.float32).div_(255)) for batch in batches]
    return found, {}


def kernel_times(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds that the device works in a call, by what it does; nothing where it is a CPU."""
    if device.type != "cuda":
        return {}
    work()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize(device)
    found: dict[str, float] = {}
    for event in seen.events():
        if event.device_type == DeviceType.CUDA:
            found[event.name] = found.get(event.name, 0.0) + event.time_range.elapsed_us() / 1000
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def measure(bench: Bench, name: str, case: Case, engines: list[str], copied: float) -> None:
    images = torch.from_numpy(photographs(case.source, case.batch)).permute(0, 3, 1, 2).contiguous()
    here = images.to(bench.device)
    few = images[:COMPARED]
    cpu = views.ENGINES["cpu"]
    made = {f"{engine}": ours(few.to(bench.device), case.recipe, engine, seed=0)() for engine in engines}
    made[f"{cpu} on the CPU"] = ours(few, case.recipe, cpu, seed=0)()
    made["torch on the CPU"] = ours(few, case.recipe, "torch", seed=0)()
    names = list(made)
    furthest = {
        f"{a}, {b}": short(max((x.cpu() - y.cpu()).abs().max().item() for x, y in zip(made[a], made[b], strict=True)))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    bench.row(
        f"{name}, between the engines", {"largest_deviation": furthest}, images=len(few), repeats=1,
        unit="of the range of values",
    )  # fmt: skip

    count = sum(view.count for view in case.recipe)
    works: dict[str, Callable[[], object]] = {
        engine: ours(here, case.recipe, engine, mean=MEAN, std=STD) for engine in engines
    }
    works["planning"] = lambda: planned(images, case.recipe)
    theirs, missing = others(here, case.recipe)
    repeats = 1 if bench.tiny else 5
    taken, failed = in_turns(works | theirs, bench.device, least=0.001 if bench.tiny else 0.2, rounds=repeats)
    rows = {each: ONE_BY_ONE if each == "torchvision" else case.batch for each in taken}
    rows = {each: min(n, case.batch) for each, n in rows.items()}
    least = least_bytes(images, case.recipe)
    kernels: dict[str, float] = {}
    with bench.trying(f"{name}, the profiler"):
        kernels = kernel_times(works[engines[0]], bench.device)
    busy = sum(kernels.values()) / 1000
    bench.row(
        name,
        {
            "views_per_s": {each: spread([rows[each] * count / s for s in t]) for each, t in taken.items()},
            "ms": {each: spread([1000 * s for s in taken[each]]) for each in (*engines, "planning") if each in taken},
            "share_of_bandwidth_end_to_end": {
                each: spread([least / s / copied for s in taken[each]]) for each in engines if each in taken
            },
            "share_of_bandwidth_kernels": short(least / busy / copied) if busy else None,
            "kernels_ms": {kernel: short(ms) for kernel, ms in list(kernels.items())[:8]},
        },
        batch=case.batch, torchvisions_batch=min(ONE_BY_ONE, case.batch), repeats=repeats, least_bytes=least,
        missing=missing | failed,
    )  # fmt: skip
