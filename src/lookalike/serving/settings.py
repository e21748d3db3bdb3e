"""The settings of a server, and checks before anything heavy is imported."""

import ipaddress
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..printing import counted, size_of

PACKAGES = ("starlette", "uvicorn", "httptools", "python_multipart")
"""Packages of the extra `serve`."""
SHORTEST_TOKEN = 16
"""Characters; shorter tokens can be guessed."""
LONGEST_TOKEN = 4096
MOST_WAITING = 8
"""Images that wait, in batches of the largest size."""
MOST_UPLOADED = 16
"""Bodies of the largest size that are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server was started with. It is sent to each worker."""

    encoder: str
    backbone: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_batch: int = 64
    """Images per forward pass, and per request."""
    max_wait_ms: float = 5.0
    max_upload_mb: int = 20
    max_pixels: int = 100_000_000
    """Pixels of all images of a request."""
    workers: int = 1

    @property
    def max_bytes(self) -> int:
        """Bytes of a request's body."""
        return self.max_upload_mb * 2**20

    @property
    def max_waiting(self) -> int:
        """Images that were accepted and not yet answered."""
        return MOST_WAITING * self.max_batch

    @property
    def max_bytes_of_all(self) -> int:
        """Bytes of all bodies that are in memory at once."""
        return MOST_UPLOADED * self.max_bytes


def check_settings(
    *,
    host: str,
    port: int,
    token_file: str | os.PathLike[str] | None,
    token: bool,
    max_batch: int,
    max_wait_ms: float,
    max_upload_mb: int,
    max_pixels: int,
    workers: int,
) -> str | None:
    """Refuses settings that cannot work or are not safe, and reads the token.

    Raises:
        ValueError: a setting out of range, a token that is too short, or a host that needs one.
        FileNotFoundError: the file of the token does not exist.
        ModuleNotFoundError: the packages of the extra are missing.
    """
    if missing := [package.replace("_", "-") for package in PACKAGES if find_spec(package) is None]:
        raise ModuleNotFoundError(f"Serving needs {', '.join(missing)}: pip install 'lookalike[serve]'")
    if not 0 <= port <= 65_535:
        raise ValueError(f"The port is {port}; it must be from 0 to 65535. 0 chooses a free one.")
    smallest = {"max_batch": max_batch, "max_upload_mb": max_upload_mb, "max_pixels": max_pixels, "workers": workers}
    for name, value in smallest.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if not 0 <= max_wait_ms <= 10_000:
        raise ValueError(f"max_wait_ms is {max_wait_ms:g}; it must be from 0 to 10,000 milliseconds.")
    if token_file is not None and not token:
        raise ValueError("--token-file asks for a token and --no-token for none. Leave one of them out.")
    if token_file is not None:
        return read_token(Path(token_file))
    if token and not is_loopback(host):
        raise ValueError(
            f"At {host or 'an empty host'} other machines reach this server. Give --token-file FILE, or --no-token if "
            "everybody who reaches it may use it."
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file, without the spaces around it.

    Raises:
        FileNotFoundError, ValueError: the file does not exist, or holds no usable token.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Make a token: openssl rand -hex 32 > {path}")
    with open(path, "rb") as file:
        content = file.read(LONGEST_TOKEN + 1)
    if len(content) > LONGEST_TOKEN:
        raise ValueError(f"{path} is larger than {size_of(LONGEST_TOKEN)}. Give a file that holds one token.")
    token = content.decode("latin-1").strip()
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(
            f"The token in {path} has {counted(len(token), 'character')}; it must have at least {SHORTEST_TOKEN}. Make "
            f"one: openssl rand -hex 32 > {path}"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(
            f"The token in {path} has spaces or other characters that no HTTP header may hold. Make one: openssl rand "
            f"-hex 32 > {path}"
        )
    return token
