"""A cache of features in a run's folder, valid until its encoder changes."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..data import Source
from ..files import atomic, parse_json
from ..runs import features_made_by, features_name
from ..tensor_file import tensor_file, write_tensors
from .features import Features


class FeatureCache:
    """A folder of features. The key of a file is the encoder, the extraction settings and the version of the images."""

    def __init__(self, folder: Path, encoder_sha256: str) -> None:
        self.folder = folder
        self.encoder_sha256 = encoder_sha256

    def find(self, source: Source, made: Mapping[str, object]) -> Features | None:
        """The cached features of a source; None if there are none, or the file is damaged.

        `made` holds the extraction settings, as in `Entry.settings`.
        """
        about = self._about(source, made)
        if about is None or self.folder.is_symlink():
            return None
        path = self.folder / features_name(about)
        try:
            with tensor_file(path) as named, safe_open(named, "pt") as file:
                head = file.metadata() or {}
                values, index = file.get_tensor("features"), file.get_tensor("index")
        except (OSError, SafetensorError):
            return None
        if head.get("about") != about or len(values) != len(index) or (len(index) and int(index.max()) >= len(source)):
            return None
        try:
            broken = [(str(name), str(reason)) for name, reason in parse_json(head.get("broken", ""), path, list)]
        except (TypeError, ValueError):
            return None
        labels = None if source.labels is None else source.labels[index]
        sets = None if source.label_sets is None else source.label_sets[index]
        return Features(values, labels, [source.name(i) for i in index.tolist()], index, broken, source.classes, sets)

    def save(self, source: Source, made: Mapping[str, object], found: Features) -> Path | None:
        """Writes features, and removes those of other encoders. None if the images are not files, and have no version.

        Raises:
            OSError: it could not be written; or the folder is a link, which may lead out of the run's folder.
        """
        about = self._about(source, made)
        if about is None:
            return None
        if self.folder.is_symlink():
            raise FileExistsError(f"{self.folder} is a link. Remove it, or replace it by the folder that it leads to.")
        path = self.folder / features_name(about)
        head = {"about": about, "broken": json.dumps(found.broken), "encoder": self.encoder_sha256}
        with atomic(path) as temporary:
            write_tensors(temporary, {"features": found.features, "index": found.index}, head)
        for other in self.folder.glob("*.safetensors"):
            if features_made_by(other) not in (None, self.encoder_sha256):
                other.unlink(missing_ok=True)
        return path

    def _about(self, source: Source, made: Mapping[str, object]) -> str | None:
        try:
            version = source.version()
        except ValueError:
            return None
        content = {"encoder": self.encoder_sha256, "images": version, "channels": source.channels, "made": dict(made)}
        return json.dumps(content, sort_keys=True)
