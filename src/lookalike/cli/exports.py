"""The command `export`."""

import os
from pathlib import Path

from ..commands.export import export as write_export
from ..exports.formats import check_options
from ..files import check_writable
from ..places import check_backbones, check_images
from ..printing import counted, pasteable, say, size_of
from ..runs.lookup import check_encoder
from .command import Command

EXPORT = Command(function=write_export, needs="commands.export_files")


def export(argv: list[str]) -> None:
    options = EXPORT.read(argv)
    check_options(
        options.format, options.precision, with_preprocessing=options.with_preprocessing,
        patch_tokens=options.patch_tokens, dynamic_size=options.dynamic_size,
    )  # fmt: skip
    if not os.path.isfile(options.encoder):  # a classifier's file is no encoder's
        check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(*(data for data in (options.check, options.calibrate) if data is not None))
    if options.out is not None:
        check_writable(Path(options.out) / "export.json")
    done = EXPORT.call(options, say=say)
    files = [done.file] if done.file.is_file() else [done.folder / "model.safetensors"]
    size = size_of(sum(file.stat().st_size for file in files))
    say(f"Wrote {done.file} ({size}), verified on {counted(done.verifications[0].images, 'image')}; {done.folder} "
        "holds export.json and README.md, too.")  # fmt: skip
    if options.format == "triton":
        say(f"Next: {done.next}")
    elif done.next:
        say(f"Next, on a machine with a GPU, in {done.folder}: {done.next}")
    elif options.format == "onnx":
        use = ("predict", "predictions.csv") if done.file.stem == "classifier" else ("embed", "embeddings.npz")
        say(f"Next: {pasteable('lookalike', use[0], done.file, 'DATA', '--out', use[1])}")
    else:
        say(f"Next: the code in {done.folder / 'README.md'}")
