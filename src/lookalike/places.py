"""Checks of paths and names of images, encoders and networks, before torch is imported.

Commands check here first, so that a typo fails at once; the code that reads them later raises the same errors.
"""

import os
import re
import sys
from collections.abc import Collection, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .foreign import is_tag
from .names import nearest, nearest_names
from .printing import LONGEST_PATH, brief, counted, shown

LIBRARIES = ("timm/", "torchvision/", "torchhub/")
"""Prefixes of the names of published encoders."""
HUB = {
    **{
        f"dinov2_vit{s}14{r}": (
            f"vit_{size}_patch14{'_reg4' if r else ''}_dinov2.lvd142m",
            f"dinov2/dinov2_vit{s}14/dinov2_vit{s}14{'_reg4' if r else ''}_pretrain.pth",
        )
        for s, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
        for r in ("", "_reg")
    },
    "dino_vits16": ("vit_small_patch16_224.dino", "dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"),
    "dino_vits8": ("vit_small_patch8_224.dino", "dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth"),
    "dino_vitb16": ("vit_base_patch16_224.dino", "dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"),
    "dino_vitb8": ("vit_base_patch8_224.dino", "dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth"),
    "dino_resnet50": ("resnet50", "dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"),
}
"""Names of torch hub: timm's name of the architecture, and the file at `HUB_URL`. No code is downloaded."""
HUB_URL = "https://dl.fbaipublicfiles.com/"


_GIVE = (
    "Give a folder of images, a text file with one path per line, archives (.tar, .zip), tables (.parquet, .arrow), "
    "arrays (FILE.h5::NAME, FILE.zarr::NAME), or hf:NAME."
)
_RANGE = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
"""A range {000..009}, or alternatives {a,b}."""
MOST_SHARDS = 1_000_000
"""Limit for the number of paths in a brace pattern."""


def expanded(pattern: str) -> list[str]:
    """The paths of a brace pattern, as a shell expands it: `shard-{000..009}.tar`, `{a,b}.tar`; others unchanged.

    Raises:
        ValueError: more than `MOST_SHARDS` paths.
    """
    if os.path.exists(pattern) or (found := _RANGE.search(pattern)) is None:
        return [pattern]
    first, last, alternatives = found.groups()
    if alternatives is None:
        if abs(int(last) - int(first)) >= MOST_SHARDS:
            raise ValueError(f"{pattern} names more than {counted(MOST_SHARDS, 'file')}. Give a smaller range.")
        step = 1 if int(first) <= int(last) else -1
        parts = [str(n).zfill(len(first)) for n in range(int(first), int(last) + step, step)]
    else:
        parts = alternatives.split(",")
    paths = [each for part in parts for each in expanded(pattern[: found.start()] + part + pattern[found.end() :])]
    if len(paths) > MOST_SHARDS:
        raise ValueError(f"{pattern} names more than {counted(MOST_SHARDS, 'file')}. Give a smaller range.")
    return paths


ON_HUB = "hf:"
"""Prefix of the name of a data set of the Hugging Face hub."""
_HUB_DATA = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?(?::(\w+(?:[.-]\w+)*))?")
IN_FILE = "::"
"""Between a file and the name of an array in it."""
ARRAY_FILES = (".h5", ".hdf5", ".zarr")
"""Suffixes of files and folders of arrays."""
_EXTRAS = (
    (".parquet", "pyarrow", "tables"), (".arrow", "pyarrow", "tables"), (".h5", "h5py", "hdf5"),
    (".hdf5", "h5py", "hdf5"), (".zarr", "zarr", "zarr"),
)  # fmt: skip
"""Suffix of DATA, the package that reads it, and its extra."""


def is_on_hub(data: str) -> bool:
    """Whether DATA names a data set of the Hugging Face hub; an existing path takes precedence."""
    return data.startswith(ON_HUB) and not os.path.exists(data)


def hub_data(data: str) -> tuple[str, str | None, str | None]:
    """Name, revision and split of `hf:NAME[@REVISION][:SPLIT]`.

    Raises:
        ValueError: it has another form.
    """
    found = _HUB_DATA.fullmatch(data)
    if found is None:
        raise ValueError(f"{brief(data)} is no name of a data set. Give hf:NAME, hf:NAME@REVISION or hf:NAME:SPLIT.")
    return found[1], found[2], found[3]


def in_file(data: str) -> tuple[str, str]:
    """The file and the name of an array in `FILE.h5::NAME`; the name is empty without one."""
    file, _, name = data.partition(IN_FILE)
    return (file, name) if file.lower().endswith(ARRAY_FILES) else (data, "")


def check_extra(data: str) -> None:
    """Raises ModuleNotFoundError if the package that reads DATA is not installed."""
    if is_on_hub(data):
        missing = [name for name in ("datasets", "pyarrow") if find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(f"{brief(data)} needs {', '.join(missing)}: pip install 'lookalike[datasets]'.")
        return
    file = in_file(data)[0].lower()
    for suffix, package, extra in _EXTRAS:
        if file.endswith(suffix) and find_spec(package) is None:
            raise ModuleNotFoundError(f"Reading {suffix} needs {package}: pip install 'lookalike[{extra}]'.")


def exists(data: str) -> bool:
    """Whether images exist: a path, the first file of a brace pattern, the file of an array, a name of the hub."""
    return is_on_hub(data) or os.path.exists(in_file(expanded(data)[0])[0])


def no_images(data: str | os.PathLike[str]) -> FileNotFoundError | ValueError:
    """The error for a path that is neither a folder nor a list of images."""
    if not os.fspath(data):
        return ValueError(f"DATA is empty. {_GIVE}")
    return FileNotFoundError(f"{brief(os.path.abspath(data), LONGEST_PATH)} does not exist. {_GIVE}")


def check_images(*data: str) -> None:
    """Refuses images that do not exist.

    Raises:
        FileNotFoundError, ValueError: for the first of them.
        ModuleNotFoundError: the package that reads them is not installed.
    """
    for each in data:
        if not (each and exists(each)):
            raise no_images(each)
        check_extra(each)
        if is_on_hub(each):
            hub_data(each)


def no_encoder(name: str, what: str = "encoder") -> FileNotFoundError:
    """The error for a name of no encoder, file or folder."""
    exported = "an exported .onnx file, " if what == "encoder" else ""
    return FileNotFoundError(
        f"No {what} at {brief(name, LONGEST_PATH) or 'an empty name'}. Give a run's folder, an encoder.safetensors, "
        f"{exported}an official weights file, timm/NAME, torchvision/NAME or torchhub/NAME."
    )


def hub_entry(name: str) -> tuple[str, str]:
    """The architecture and the file of a name of torch hub.

    Raises:
        ValueError: the name is not in `HUB`.
    """
    if name not in HUB:
        raise ValueError(f"Unknown name of torch hub: {shown(name)}. {nearest(name, list(HUB))}")
    return HUB[name]


def is_published(encoder: object) -> bool:
    """Whether an encoder is the name of published weights, for 3 channels; an existing path takes precedence."""
    return isinstance(encoder, str) and encoder.startswith(LIBRARIES) and not os.path.exists(encoder)


def no_list(path: object) -> FileNotFoundError:
    """The error for a missing list of labelled images."""
    return FileNotFoundError(f"{path} does not exist. Give a text file with the name of a labelled image per line.")


def no_check(path: object) -> FileNotFoundError:
    """The error for a missing file of `check`."""
    return FileNotFoundError(f"{path} does not exist. Write it with `lookalike check DATA --out FILE`.")


def no_features(path: object) -> FileNotFoundError:
    """The error for a missing file of features."""
    return FileNotFoundError(f"{path} does not exist. Give a file that `lookalike embed` wrote.")


def refuse_folder(path: Path, name: str) -> None:
    """Refuses a folder as the path of an output file; `name` is an example of a file in it.

    Raises:
        ValueError: it is a folder.
    """
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder. Give a file, such as {path / name}.")


def check_logger(logger: str) -> None:
    """Raises ModuleNotFoundError if a logger is not installed."""
    if logger != "none" and find_spec(logger) is None:
        raise ModuleNotFoundError(f"--logger {logger} needs the extra: pip install 'lookalike[{logger}]'")


def no_backbone(name: str, known: Collection[str]) -> ValueError:
    """The error for an unknown network, with the most similar names."""
    of_library = name.startswith("torchvision/")
    known = [each for each in known if each.startswith("torchvision/")] if of_library else known
    by_end = {each.rpartition("/")[2]: each for each in reversed(list(known))}
    near = [by_end[end] for end in nearest_names(name.rpartition("/")[2], by_end)]
    nearest_ones = f"The nearest names: {', '.join(near)}. " if near else ""
    return ValueError(f"There is no backbone {shown(name)}. {nearest_ones}`lookalike list backbones` shows all.")


_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
"""The definition of a network in the source of timm and torchvision."""


OPTIMIZERS = ("adamw", "adam", "sgd", "lars", "lars_simclr", "larc")
"""Names of optimizers that are not timm's."""
_NAMED = re.compile(r"\bname='(\w+)'")
"""The name of an optimizer in timm's source."""


def no_optimizer(name: str, known: Collection[str]) -> ValueError:
    """The error for an unknown optimizer, with the most similar names."""
    near = nearest_names(name, {*OPTIMIZERS, *known}, cutoff=0.4)
    return ValueError(f"There is no optimizer {name!r}. The nearest names: {', '.join(near) or 'adamw, sgd, lars'}.")


def check_optimizer(name: str) -> None:
    """Refuses a name that does not occur in the source of timm's optimizers, without importing them.

    Raises:
        ValueError: as in a training.
    """
    text = "" if "timm" in sys.modules else _source("timm", "optim")  # once imported, others may be registered
    if text and name not in OPTIMIZERS and not re.search(rf"\b{re.escape(name)}\b", text):
        raise no_optimizer(name, _NAMED.findall(text))


def check_backbone(name: str) -> None:
    """Refuses a name that does not occur in the source of timm and torchvision, without importing them.

    Raises:
        ValueError: as in `backbones.create`.
    """
    library, _, short = name.rpartition("/")
    text = _source("torchvision" if library == "torchvision" else "timm")
    architecture = short.partition(".")[0]
    if text and not re.search(rf"\b{re.escape(architecture)}\b", text):
        own = _REGISTERED.findall(_source("timm"))
        others = _REGISTERED.findall(_source("torchvision"))
        raise no_backbone(name, [*own, *(f"torchvision/{each}" for each in others)])


def check_backbones(*names: str | None) -> None:
    """Refuses unknown networks, unless timm is imported: then others may be registered, and timm checks the name.

    Raises:
        ValueError: for the first of them, see `check_backbone`.
    """
    for name in filter(None, names):
        if "timm" not in sys.modules and not is_tag(name):
            check_backbone(name)


@cache
def _source(package: str, part: str = "models") -> str:
    """The source of a package's models, or of another part of it; empty if it is not available."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        return ""
    files = sorted(Path(found.submodule_search_locations[0], part).rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


PREDICTED = (".csv", ".parquet")
"""Suffixes of files of predictions."""
PLOTTED = (".png", ".pdf", ".svg")
"""Suffixes of files of plots."""


def check_suffix(path: str | os.PathLike[str], known: Sequence[str] = (".npz", ".parquet", ".csv")) -> None:
    """Refuses an output file of an unsupported type, before there is work to lose.

    Raises:
        ValueError: an unknown suffix.
        ModuleNotFoundError: `.parquet` without pyarrow.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path} ends in {suffix!r}; expected {', '.join(known[:-1])} or {known[-1]}. Choose one.")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ModuleNotFoundError("Writing .parquet needs pyarrow: pip install 'lookalike[tables]'.")


def check_shares(shares: Sequence[float]) -> None:
    """Raises ValueError unless there are fractions of labels, each above 0 and at most 1."""
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares is {list(shares)}; give one or more fractions above 0 and at most 1.")
