"""What figures mean, in half a sentence each, for somebody who sees them first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...printing import counted

Kind = Literal["number", "percent", "count"]


@dataclass(frozen=True)
class Curve:
    """How a column of `metrics.jsonl` is called and drawn."""

    title: str
    unit: str
    note: str
    kind: Kind = "number"


CURVES: Mapping[str, Curve] = {
    "loss": Curve("Loss", "", "What the training makes small. Methods differ in it, so compare runs of one method."),
    "knn_top1": Curve(
        "k-NN accuracy", "%", "Test images whose nearest labelled images name their class rightly.", "percent"
    ),
    "pair_auc": Curve(
        "Pair AUC", "%",
        "How often a view is closer to the other view of its image than to a view of another image. Chance is 50 %.",
        "percent",
    ),
    "pair_auc_change": Curve(
        "Change of the pair AUC", "%", "Difference from the first evaluation, on the same images.", "percent"
    ),
    "pair_auc_error": Curve("Error of the change", "%", "Standard error of this change over the images.", "percent"),
    "moved": Curve("Moved", "", "Mean absolute change of the pair AUC per image since the first evaluation."),
    "spread": Curve("Spread", "", "How far the features of different images lie apart. Near 0 they have collapsed."),
    "effective_rank": Curve("Effective rank", "directions", "How many directions the features use."),
    "alignment": Curve("Alignment", "", "Squared distance of two views of one image, 0 to 4: lower is closer."),
    "uniformity": Curve("Uniformity", "", "How evenly images cover the sphere: 0 is one spot, -4 is even."),
    "lr": Curve("Learning rate", "", "Length of the optimizer's steps, as its schedule sets it."),
    "grad_norm": Curve("Gradient norm", "", "Size of the gradient. Growing without end, it announces a divergence."),
    "update_ratio": Curve(
        "Step length", "%", "How much an optimizer step changes the weights. Above 1.5 % it is far too long.", "percent"
    ),
    "images_per_s": Curve("Speed", "images/s", "Training images per second."),
    "data_wait": Curve("Waiting for data", "%", "Share of the time without an image to train on.", "percent"),
    "head_spread": Curve("Spread behind the head", "", "The same as spread, of what the method's head makes."),
    "head_size": Curve("Length behind the head", "", "How long the head's outputs are. Growing 100-fold is too much."),
    "skipped": Curve("Skipped steps", "steps", "Steps that were dropped since their gradient was not finite.", "count"),
}  # fmt: skip
"""In the order of the page; other columns follow."""

MAIN = ("loss", "knn_top1", "pair_auc", "spread", "lr", "images_per_s")
"""Curves that are shown at once; the others are folded away."""

VERDICTS: Mapping[str, str] = {
    "learning": "The encoder tells images apart better than before the training.",
    "not learning": "The encoder is no better than before the training.",
    "getting worse": "The labelled images are classified worse than before the training.",
    "unclear": "Whether the encoder is better than before the training is not known.",
    "too short to tell": "So few steps change too little to be seen.",
    "collapsed": "All images get nearly the same feature: the encoder is of no use.",
    "diverged": "The numbers grew without bounds: the weights are of no use.",
}

PROTOCOL_TITLES: Mapping[str, tuple[str, str]] = {
    "knn": ("k nearest neighbours", "An image gets the class of the most similar labelled images. Nothing is trained."),
    "linear": ("Linear probe", "A linear classifier on the frozen features, with all labels."),
    "linear-augmented": ("Linear probe, augmented", "A linear classifier on features of randomly cropped images."),
    "logistic": ("Logistic regression", "A linear classifier on the frozen features, solved to the optimum."),
    "semi": ("Few labels", "A classifier that is given a small share of the labels."),
    "finetune": ("Fine-tuning", "The whole network goes on learning, with labels."),
    "retrieval": ("Retrieval", "Whether the images most like a test image are of its class."),
    "label-free": ("Without labels", "Whether two views of an image find each other, and how the features lie."),
}
"""Title and explanation of each protocol."""

METRIC_TITLES: Mapping[str, Curve] = {
    "map": Curve("Mean average precision", "", "How far up images of the own class come; 100 % is first.", "percent"),
    "pair_auc": CURVES["pair_auc"],
    "view_retrieval": Curve(
        "Own view found", "%", "How often the nearest of all views is the image's own other one.", "percent"
    ),
    "view_retrieval_of_5": Curve("Own view among 5", "%", "The same, among the nearest five.", "percent"),
    **{name: CURVES[name] for name in ("alignment", "uniformity", "spread")},
    "effective_rank": Curve("Effective rank", "directions", "How many directions the features use; more is richer."),
}
"""Figures of an evaluation that are no accuracy, in the order of the page."""


def recall_words(k: int) -> Curve:
    """Recall@k of retrieval."""
    nearest = "the nearest image" if k == 1 else f"one of the {k} nearest images"
    return Curve(f"Recall@{k}", "%", f"How often {nearest} is of the same class.", "percent")


_SHOWN = ("share", "how", "k", "temperature", "epochs", "folds", "image_size", "features")


def settings_in_short(settings: Mapping[str, object]) -> str:
    """The settings of an evaluation that tell it from others of its protocol."""
    parts = []
    for name in _SHOWN:
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        if name == "share":
            parts.append(f"{100 * float(value):g} % of the labels")
        elif name == "image_size":
            parts.append(f"{value} px")
        elif name == "epochs":
            parts.append(counted(value, "epoch") if isinstance(value, int | float) else f"{value} epochs")
        elif name in ("how", "features"):
            parts.append(str(value))
        else:
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)
