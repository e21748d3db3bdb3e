"""Sends image files to the exported network in Triton, and prints or writes what it answers.

pip install "tritonclient[http]" pillow
python client.py photo.jpg --url 127.0.0.1:8000
"""

import argparse
import json
from typing import Any

import numpy as np
import tritonclient.http as triton
from PIL import Image, ImageOps

SHOWN = 5
"""Values or classes that are printed of an image."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's names of images, by their channels."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Sends image files to an exported network in Triton.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG or other image files")
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the server")
    parser.add_argument("--model", help="name of the model; by default the one that is ready")
    parser.add_argument("--one-size", action="store_true",
                        help="resize and crop here: images of all clients fit into one batch")  # fmt: skip
    parser.add_argument("--out", metavar="FILE.npz", help="write the outputs of all images to this file")
    options = parser.parse_args()
    client = triton.InferenceServerClient(options.url)
    model = options.model or ready(client)
    config = client.get_model_config(model)
    channels = int(config["input"][0]["dims"][-1])
    stated = {name: json.loads(each["string_value"]) for name, each in config["parameters"].items()}
    outputs = [each["name"] for each in config["output"]]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for file in options.files:
        images = read(file, channels, (stated["short_side"], stated["image_size"]) if options.one_size else None)
        given = triton.InferInput("images", images.shape, "UINT8")
        given.set_data_from_numpy(images)
        answer = client.infer(model, [given], outputs=[triton.InferRequestedOutput(name) for name in outputs])
        for name in outputs:
            rows[name].append(answer.as_numpy(name)[0])
        print(f"{file}: {described({name: values[-1] for name, values in rows.items()}, stated.get('classes'))}")
    if options.out:
        arrays: dict[str, Any] = {name: np.stack(values) for name, values in rows.items()}
        np.savez(options.out, files=options.files, **arrays)


def ready(client: triton.InferenceServerClient) -> str:
    """The name of the only model that the server has loaded."""
    names = [each["name"] for each in client.get_model_repository_index() if each.get("state") == "READY"]
    if len(names) != 1:
        raise SystemExit(f"The server has {len(names)} models ready: {', '.join(names)}. Choose one with --model.")
    return str(names[0])


def read(file: str, channels: int, sides: tuple[int, int] | None) -> np.ndarray:
    """An image upright as uint8 (1, H, W, C).

    Args:
        sides: of the resized image the shorter one, to which the longer one is cropped, and that of the network's
            images, which the server crops; None to send the image unchanged.
    """
    if channels not in MODES:
        raise SystemExit(f"The network takes images of {channels} channels, but this client reads those of 1, 3 or 4.")
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert(MODES[channels])
    if sides is not None:
        short, size = sides
        width, height = image.size
        least = min(width, height)
        image = image.resize((short * width // least, short * height // least), Image.Resampling.BICUBIC)
        # the centre by the rule of the server, so that both crops together are one
        left, top = (round((side - size) / 2) - round((short - size) / 2) for side in image.size)
        image = image.crop((left, top, left + short, top + short))
    pixels = np.asarray(image)
    return pixels.reshape(1, *pixels.shape[:2], channels)


def described(outputs: dict[str, np.ndarray], classes: list[str] | None) -> str:
    """The likeliest classes, or the first values of the features."""
    if classes is not None:
        order = np.argsort(-outputs["probabilities"])[:SHOWN]
        return ", ".join(f"{classes[i]} {outputs['probabilities'][i]:.1%}" for i in order)
    values = outputs["features"]
    return f"{len(values)} features: " + " ".join(f"{value:.4f}" for value in values[:SHOWN]) + " ..."


if __name__ == "__main__":
    main()
