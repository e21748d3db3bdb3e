"""Data sets of the Hugging Face hub by name, downloaded by `datasets` because the user named them."""

import os
from typing import Any

from ...places import hub_data
from ...printing import brief, printable


def hub_files(data: str) -> list[str]:
    """The Arrow files of one split of `hf:NAME[@REVISION][:SPLIT]`, from the cache of `datasets` or the network.

    No code of the hub is executed.

    Raises:
        ValueError: there is no such data set or split, it needs a configuration, or it cannot be downloaded.
        ModuleNotFoundError: `datasets` is not installed.
    """
    name, revision, split = hub_data(data)
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{data} needs datasets: pip install 'lookalike[datasets]'.") from error
    try:
        found: Any = datasets.load_dataset(name, revision=revision, split=split)
    except Exception as error:  # of the network, the hub and the file system
        raise _refused(data, error) from error
    if isinstance(found, dict):
        names = list(found)
        split = "train" if "train" in names else names[0] if len(names) == 1 else None
        if split is None:
            raise ValueError(
                f"{data} has the splits {', '.join(map(printable, names))}. Name one of them: {data}:{names[0]}."
            )
        found = found[split]
    files = [os.path.abspath(each["filename"]) for each in found.cache_files]
    if not files:
        raise ValueError(
            f"{data} was loaded into memory instead of a file. Unset HF_DATASETS_IN_MEMORY_MAX_SIZE, or {_save(data)}"
        )
    return files


def _refused(data: str, error: Exception) -> ValueError:
    """Why a data set cannot be loaded, and what to do."""
    import datasets

    reason = brief(" ".join(str(error).split()) or type(error).__name__, 300).rstrip(".")
    if "OfflineModeIsEnabled" in reason or _is_of_network(error):
        why = "HF_HUB_OFFLINE is set" if datasets.config.HF_HUB_OFFLINE else "the hub cannot be reached"
        return ValueError(
            f"{data} is not in the cache of datasets ({datasets.config.HF_DATASETS_CACHE}), and {why} ({reason}). "
            f"On a machine with a network, {_save(data)}"
        )
    if "onfig name is missing" in reason:
        return ValueError(f"{data} has several configurations ({reason}). Choose one in Python: {_save(data, True)}")
    return ValueError(
        f"{data} cannot be loaded ({reason}). Check the name, or log in with `hf auth login` if it is private."
    )


def _is_of_network(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is one of the network."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in _NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False


_NETWORK = frozenset(
    ("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "OfflineModeIsEnabled",
     "LocalEntryNotFoundError", "ProxyError", "gaierror")
)  # fmt: skip
"""Names of errors of the libraries that `datasets` may use: requests, httpx and huggingface_hub."""


def _save(data: str, configured: bool = False) -> str:
    """The advice to bring a data set as a folder."""
    name, revision, split = hub_data(data)
    options = [repr(name), *(["'CONFIGURATION'"] if configured else []), f"split={split or 'train'!r}"]
    options += [f"revision={revision!r}"] if revision else []
    call = f"datasets.load_dataset({', '.join(options)})"
    command = f"python -c \"import datasets; {call}.save_to_disk('FOLDER')\""
    return f"run {command}, copy FOLDER to this machine, and give it as DATA."
