"""The untrained network, the baseline of a comparison."""

import torch

from ... import backbones, encoders
from ...backbones import Backbone
from ...data import Source
from ...evaluation.features import with_statistics
from ...random import key_of
from ...runs import Resolved
from ...training import model


def untrained_encoder(run: Resolved, source: Source) -> Backbone:
    """The encoder that a resolved run starts from, ready for evaluation.

    Args:
        run: a resolved run of any method that starts from the plain backbone.
        source: its images. BatchNorm statistics are computed on them, unless the encoder starts from weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(key_of(run.seed, "weights"))
        encoder = backbones.create(run.backbone, channels=run.channels, image_size=run.image_size)
    encoder.pixels = run.pixels
    model.normalize(encoder, run, source)
    if run.init:
        encoders.start_from(encoder, run.init)
        return encoder.eval()
    return with_statistics(encoder, source, image_size=run.image_size, mean=encoder.mean, std=encoder.std)
