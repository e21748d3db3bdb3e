"""From an encoder and images to features: loads the encoder, reads each set of images once, caches the features."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from .. import backbones, encoders
from ..backbones import Backbone
from ..data import Source, remarks
from ..devices import default_device
from ..files import file_sha256
from ..foreign import is_tag
from ..printing import are, counted
from ..progress import counting
from ..random import key_of
from ..runs import Folder
from ..tensor_file import sha256
from .feature_cache import FeatureCache
from .features import Features, device_of, features, precision_of, with_statistics
from .protocol_table import FeaturePrecision, Pool

Encoder = str | os.PathLike[str] | nn.Module
"""An argument of `lookalike.load`, a loaded encoder, or the user's own module, images (B, C, H, W) -> (B, D)."""
MOST_NAMED = 10
"""Maximum number of broken images that are listed by name."""


def open_encoder(encoder: Encoder, image_size: int | None = None, backbone: str | None = None) -> Backbone:
    """Loads an encoder, unless it is loaded, and moves it to the GPU if there is one.

    Args:
        backbone: the name of the architecture, for a weights file that does not state it.

    Raises:
        ValueError: the user's own module without `image_size`.
    """
    if not isinstance(encoder, nn.Module):
        model = encoders.load(encoder, backbone)
    elif isinstance(encoder, Backbone):
        model = encoder
    elif image_size is None:
        raise ValueError(
            f"{type(encoder).__qualname__} is a module of your own, and its input size is unknown. Give image_size; "
            "for other than 3 channels, lookalike.backbones.create(module, channels=..., image_size=...)."
        )
    else:
        model = backbones.create(encoder, image_size=image_size)
    return model.to(device=default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_known(model: Backbone) -> None:
    """Raises ValueError for a network that cannot be initialised again: the user's own module."""
    if is_tag(model.name):
        raise ValueError(
            f"{model.name} is a module of your own, whose untrained weights are unknown. Leave the baseline out, and "
            "evaluate an untrained one, too."
        )


def untrained(model: Backbone, seed: int) -> Backbone:
    """The same network with random weights of a seed, and the same normalisation of images.

    Raises:
        ValueError: see `check_known`.
    """
    check_known(model)
    with torch.random.fork_rng():
        torch.manual_seed(key_of(seed, "weights"))
        drawn = backbones.create(
            model.name, channels=model.channels, image_size=model.image_size, stem=model.stem,
            interpolation=model.interpolation,
        )  # fmt: skip
    drawn.mean, drawn.std, drawn.pixels = model.mean, model.std, model.pixels
    return drawn


def open_encoder_and_digest(
    encoder: Encoder, image_size: int | None = None, backbone: str | None = None
) -> tuple[Backbone, str]:
    """An encoder, and the SHA-256 of its weights: of the file, as printed by `sha256sum`, else of the tensors.

    A training may write the file in the meantime: it is read again until both agree.
    """
    if isinstance(encoder, nn.Module) or not os.path.exists(encoder):
        model = open_encoder(encoder, image_size, backbone)
        return model, sha256(model)
    file = Folder(encoder).weights if os.path.isdir(encoder) else Path(encoder)
    while True:
        before = file_sha256(file) if file.is_file() else ""
        model = open_encoder(encoder, image_size, backbone)  # reports a missing file
        if file_sha256(file) == before:
            return model, before


def report_broken(found: Features, what: str, say: Callable[[str], None]) -> None:
    """Lists images that could not be read."""
    if not found.broken:
        return
    total = len(found.broken) + len(found.names)
    say(
        f"{what}: {len(found.broken)} of {counted(total, 'image')} could not be read and "
        f"{are(len(found.broken))} left out"
    )
    for name, reason in found.broken[:MOST_NAMED]:
        say(f"  {name}: {reason}")
    if len(found.broken) > MOST_NAMED:
        say(f"  and {len(found.broken) - MOST_NAMED} more")


class Extractor:
    """Features of one encoder, computed once per set of images and cached in its run's folder, if it has one."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        image_size: int | None,
        pool: Pool,
        batch_size: int,
        workers: int,
        keep: bool,
        say: Callable[[str], None],
        backbone: str | None = None,
        precision: FeaturePrecision | None = None,
    ) -> None:
        if batch_size < 1 or (image_size is not None and image_size < 1):
            raise ValueError(f"batch_size is {batch_size} and image_size {image_size}; both must be at least 1.")
        if pool not in get_args(Pool):
            raise ValueError(f"There is no pooling {pool!r}. Choose from {', '.join(get_args(Pool))}.")
        self.model, self.encoder_sha256 = open_encoder_and_digest(encoder, image_size, backbone)
        if self.model.remark:
            say(f"weights: {self.model.remark}")
        self.size = image_size or self.model.image_size
        self.model.check_size(self.size)
        self.pool = pool
        self.part = self.model if pool == "pooled" else _Part(self.model, pool)
        self.precision = precision_of(self.model, precision)
        self.made = extraction_settings(self.size, pool, self.precision)
        self.batch_size, self.workers, self.say = batch_size, workers, say
        self.cache: FeatureCache | None = None
        if keep and isinstance(encoder, str | os.PathLike) and os.path.isdir(encoder):
            self.cache = FeatureCache(Folder(encoder).features, self.encoder_sha256)

    def untrained(self, source: Source, seed: int) -> "Extractor":
        """An extractor of the same network, untrained, with BatchNorm statistics of a source."""
        model = untrained(self.model, seed).to(device_of(self.model))
        model = with_statistics(model, source, image_size=self.size, mean=model.mean, std=model.std)
        return Extractor(
            model, image_size=self.size, pool=self.pool, batch_size=self.batch_size, workers=self.workers, keep=False,
            say=self.say, precision=self.precision,
        )  # fmt: skip

    def features(self, source: Source, what: str) -> Features:
        """The features of a source's images; `what` names them in printed lines."""
        if self.cache is not None and (cached := self.cache.find(source, self.made)) is not None:
            self.say(f"{what}: features of {counted(len(cached.features), 'image')}, from the cache")
            report_broken(cached, what, self.say)
            return cached
        for line in remarks(source):
            self.say(f"{what}: {line}")
        found = features(
            self.part, source, image_size=self.size, mean=self.model.mean, std=self.model.std,
            batch_size=self.batch_size, workers=self.workers, precision=self.precision,
            progress=counting(self.say, f"{what}: ", f"images at {self.size} px", last=True),
        )  # fmt: skip
        report_broken(found, what, self.say)
        if self.cache is not None:
            try:
                self.cache.save(source, self.made, found)
            except OSError as error:
                self.say(f"{what}: the features could not be cached. {error}")
        return found


class _Part(nn.Module):
    """An encoder with other pooling: of patch tokens or of class tokens of several blocks."""

    def __init__(self, model: Backbone, pool: Pool) -> None:
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool == "last4":
            return self.model.class_tokens(x, 4)  # (B, 4D)
        tokens = self.model.tokens(x)
        average = tokens.patches.mean(1)  # (B, N, D) -> (B, D)
        return average if self.pool == "average" else torch.cat([tokens.cls, average], 1)


def extraction_settings(
    image_size: int, pool: Pool = "pooled", precision: FeaturePrecision = "fp32"
) -> dict[str, object]:
    """The settings of `features` at a size, as in `Entry.settings`; fp32 is not named."""
    settings: dict[str, object] = {"image_size": image_size, "crop": "256/224 centre", "features": pool}
    return settings if precision == "fp32" else settings | {"precision": precision}
