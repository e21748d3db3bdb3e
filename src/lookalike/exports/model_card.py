"""The model card of an export, `README.md`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..columns import COLUMNS, Columns
from ..image_options import Tiling
from ..printing import counted, printable, protocol_name
from .formats import Format, Precision
from .network import Network
from .preparation import Tensors, as_code, as_text
from .verify import Verification

USE: dict[Format, str] = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
{outputs} = session.run(None, {{"images": images}})
""",
    "pt2": """import torch

model = torch.export.load("{file}").module()
{outputs} = model(torch.from_numpy(images))
""",
    "timm": """import timm
import torch

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
with torch.inference_mode():
    output = model(torch.from_numpy(images))

# or: transformers.AutoModel.from_pretrained("{folder}")
""",
    "triton": """import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8000")
given = triton.InferInput("images", images.shape, "UINT8")
given.set_data_from_numpy(images)
answer = client.infer("{folder}", [given])
{outputs} = [answer.as_numpy(name) for name in {names}]
""",
    "tensorrt": """# tensorrt.Runtime(...).deserialize_cuda_engine(open("{file}", "rb").read())
# input "images", outputs {outputs}, all in float32
""",
}
BUILD = """# first build the engine from {file} on a machine with a GPU: sh build_engine.sh
# its input is "images", its outputs are {outputs}, all in float32
"""
"""Instead of code for TensorRT, without an engine."""


@dataclass(frozen=True)
class Origin:
    """Where an export is from."""

    encoder: str
    """As the user gave it."""
    sha256: str
    """Of the weights."""
    method: str
    epochs: float
    data: str
    """The training images; "" if unknown."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Entries of the run's `evaluation.json` for these weights."""
    dtype: str = "uint8"
    """Of the training images."""
    columns: Columns = COLUMNS
    """Of their list, if they are one."""
    tiling: Tiling | None = None
    """Into which they were cut."""


def model_card(
    network: Network,
    origin: Origin,
    *,
    format: Format,
    precision: Precision,
    file: str,
    given: Tensors,
    outputs: Sequence[Tensors],
    classes: Sequence[str] | None,
    status: str,
    verifications: Sequence[Verification],
    notes: Sequence[str],
    images: str,
    server: Sequence[str],
    command: str,
    version: str,
) -> str:
    """The text of `README.md`.

    Args:
        status: verified, failed or unverified.
        notes: what the verification could not try.
        images: where the images of the verification are from.
        server: lines on the server that loads the export; none for other formats.
        command: the command that repeats the export.
        version: of lookalike.
    """
    encoder = network.encoder
    preprocesses = given.dtype == "uint8"
    kind = f"a classifier of {counted(len(classes), 'class')}" if classes else "an image encoder"
    lines = [f"# {_text(encoder.name)}", "", f"This is {kind}, exported by lookalike {version}.", ""]
    facts = {
        "network": f"{encoder.name}, {encoder.stem} stem" if encoder.stem == "small" else encoder.name,
        "features": counted(encoder.dim, "dimension"),
        "training": f"{origin.method}, {counted(origin.epochs, 'epoch')}" if origin.method else "published weights",
        "training images": origin.data or "unknown",
        "format": f"{format}, {precision}: {file}",
        "weights (SHA-256)": origin.sha256,
    }
    lines += _table(("", ""), facts.items())
    if origin.evaluations:
        rows = [
            (
                protocol_name(str(row["protocol"]), row["settings"]),
                f"{row['top1']:.1%} ({row['interval'][0]:.1%} to {row['interval'][1]:.1%})",
                f"{row['test_images']}",
                str(row.get("test", "")),
            )
            for row in origin.evaluations
        ]
        lines += ["## Accuracy", "", "Of the encoder before the export, with the 95 % interval.", ""]
        lines += _table(("protocol", "accuracy", "test images", "test set"), rows)
    lines += ["## Input and outputs", ""]
    lines += _table(("name", "shape", "type"), [(t.name, _shape(t), t.dtype) for t in (given, *outputs)])
    lines += [as_text(network, preprocesses=preprocesses), "", "```python"]
    names = ", ".join(t.name for t in outputs)
    named = f"{names}," if len(outputs) == 1 else names
    use = (BUILD if format == "tensorrt" and ".engine" not in file else USE[format]).format(
        file=file,
        folder=file.split("/")[0] if format == "triton" else ".",
        outputs=named if format != "tensorrt" else names,
        names=[t.name for t in outputs],
    )
    lines += [(as_code(network, preprocesses=preprocesses) + "\n" + use).strip(), "```", ""]
    if classes:
        shown = ", ".join(_text(name) for name in classes[:MOST_CLASSES])
        more = f" and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
        lines += [f"Classes, in the order of `probabilities`: {shown}{more}.", ""]
    lines += server
    lines += ["## Verification", "", *_verification(status, verifications, images), *(f"- {n}" for n in notes), ""]
    lines += [
        "## Licence", "",
        "The weights are yours: the authors of lookalike claim no right to them. What you may do with them depends on "
        "your images and on the weights that the training started from. The code that made this file has the "
        "Apache-2.0 licence; the architecture's code is that of timm (Apache-2.0) or torchvision (BSD-3-Clause).", "",
        "## Repeat", "", "```", printable(command), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


MOST_CLASSES = 100
"""Classes that the model card names."""


def _verification(status: str, verifications: Sequence[Verification], images: str) -> list[str]:
    if not verifications:
        return ["**Not verified**: there were no images. Repeat the export with `--check DATA`."]
    lines = [] if status == "verified" else ["**Failed.** Do not use this file.", ""]
    lines += [f"Compared with the encoder on {counted(verifications[0].images, 'image')} of {_text(images)}.", ""]
    for each in verifications:
        lines += [f"- {each.line()}", *(f"- outside the limits: {failure}" for failure in each.failures)]
    return lines


def _shape(tensor: Tensors) -> str:
    return " x ".join(map(str, tensor.shape))


def _table(head: Sequence[str], rows: Any) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('--' for _ in head)} |"]
    return [*lines, *(f"| {' | '.join(_cell(str(x)) for x in row)} |" for row in rows), ""]


def _cell(text: str) -> str:
    """A text that cannot end its cell or start a tag of HTML."""
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """A name on one line that cannot start a tag of HTML."""
    return printable(text).replace("<", "&lt;")
