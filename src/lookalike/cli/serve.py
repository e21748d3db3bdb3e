"""The command `serve`."""

import os

from ..commands.serve import serve as run_server
from ..places import check_backbones
from ..printing import say
from ..runs.lookup import check_encoder
from ..serving.settings import check_settings
from .command import Command

SERVE = Command(function=run_server, needs="serving.process")


def serve(argv: list[str]) -> None:
    options = SERVE.read(argv)
    check_settings(
        host=options.host, port=options.port, token_file=options.token_file, token=options.token,
        max_batch=options.max_batch, max_wait_ms=options.max_wait_ms, max_upload_mb=options.max_upload_mb,
        max_pixels=options.max_pixels, workers=options.workers,
    )  # fmt: skip
    if not os.path.isfile(options.encoder):  # a classifier's file is no encoder's
        check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    SERVE.call(options, say=say)
