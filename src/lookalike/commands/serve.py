"""The command `serve`: an encoder or a classifier over HTTP. It imports nothing heavy."""

import os
from collections.abc import Callable

from ..printing import silent
from ..serving.settings import Settings, check_settings


def serve(
    encoder: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | os.PathLike[str] | None = None,
    token: bool = True,
    max_batch: int = 64,
    max_wait_ms: float = 5.0,
    max_upload_mb: int = 20,
    max_pixels: int = 100_000_000,
    workers: int = 1,
    encoder_backbone: str | None = None,
    say: Callable[[str], None] = silent,
) -> None:
    """Serves embeddings and predictions over HTTP until it is stopped by Ctrl-C or SIGTERM.

    Images of all clients are computed together. Requests that were accepted are answered before the server ends.

    Args:
        encoder: an exported .onnx file, a run folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME. A
            finetune run is served as a classifier.
        host: address at which it listens. All but this machine's own (127.0.0.1, localhost) need a token.
        port: 0 chooses a free one.
        token_file: file with the token that clients send (Authorization: Bearer TOKEN).
        token: whether other addresses than this machine's own need a token.
        max_batch: images per forward pass, and per request.
        max_wait_ms: milliseconds that a batch waits for images of other clients, at most.
        max_upload_mb: MiB per request.
        max_pixels: pixels of all images of a request.
        workers: number of processes; on GPUs at most one for each.
        encoder_backbone: name of the architecture, if `encoder` is a weights file that does not state it.
        say: called with lines for the user.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: a setting or an encoder that cannot be used.
        OSError: the port cannot be used.
        RuntimeError: workers end again and again.
    """
    secret = check_settings(
        host=host, port=port, token_file=token_file, token=token, max_batch=max_batch, max_wait_ms=max_wait_ms,
        max_upload_mb=max_upload_mb, max_pixels=max_pixels, workers=workers,
    )  # fmt: skip
    from ..serving import process

    settings = Settings(
        encoder=os.fspath(encoder), backbone=encoder_backbone, host=host, port=port, token=secret,
        max_batch=max_batch, max_wait_ms=max_wait_ms, max_upload_mb=max_upload_mb, max_pixels=max_pixels,
        workers=workers,
    )  # fmt: skip
    process.serve(settings, say)
