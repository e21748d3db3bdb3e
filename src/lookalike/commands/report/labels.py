"""Titles and short explanations of metrics and protocols, for readers who see them for the first time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...printing import counted

Kind = Literal["number", "percent", "count"]


@dataclass(frozen=True)
class Curve:
    """How a metric is named and drawn."""

    title: str
    unit: str
    note: str
    kind: Kind = "number"


CURVES: Mapping[str, Curve] = {
    "loss": Curve("Loss", "", "Training loss. Its scale depends on the method: compare runs of one method only."),
    "knn_top1": Curve(
        "k-NN accuracy", "%", "Test images classified correctly by their nearest labelled images.", "percent"
    ),
    "pair_auc": Curve(
        "Pair AUC", "%",
        "How often a view is closer to the other view of its image than to a view of another image. Chance is 50 %.",
        "percent",
    ),
    "pair_auc_change": Curve(
        "Change of the pair AUC", "%", "Difference from the first evaluation, on the same images.", "percent"
    ),
    "pair_auc_error": Curve("Error of the change", "%", "Its standard error over the images.", "percent"),
    "moved": Curve("Moved", "", "How far images' contributions to the pair AUC are from the first ones: 0 is unmoved."),
    "spread": Curve("Spread", "", "How far apart the features of different images are. Near 0 they have collapsed."),
    "effective_rank": Curve("Effective rank", "dimensions", "Number of dimensions that the features effectively use."),
    "alignment": Curve("Alignment", "", "Squared distance between two views of one image, 0 to 4: lower is closer."),
    "uniformity": Curve("Uniformity", "", "How evenly features cover the sphere: 0 is a single point, -4 is uniform."),
    "lr": Curve("Learning rate", "", "Step size of the optimizer, as set by its schedule."),
    "grad_norm": Curve("Gradient norm", "", "Norm of the gradient. Unlimited growth precedes a divergence."),
    "update_ratio": Curve(
        "Step size", "%", "Relative change of the weights per optimizer step. Above 1.5 % is far too large.", "percent"
    ),
    "images_per_s": Curve("Speed", "images/s", "Training images per second."),
    "data_wait": Curve("Waiting for data", "%", "Fraction of the training time spent waiting for images.", "percent"),
    "head_spread": Curve("Spread after the head", "", "Spread of the outputs of the method's head."),
    "head_size": Curve("Norm after the head", "", "Norm of the head's outputs. It should not grow 100-fold."),
    "skipped": Curve("Skipped steps", "steps", "Optimizer steps skipped because the gradient was not finite.", "count"),
}  # fmt: skip
"""Columns of `metrics.jsonl`, in the order of the page; unknown columns follow."""

MAIN = ("loss", "knn_top1", "pair_auc", "spread", "lr", "images_per_s")
"""Curves that are always visible; the others are collapsed."""

VERDICTS: Mapping[str, str] = {
    "learning": "The encoder distinguishes images better than before training.",
    "not learning": "The encoder is no better than before training.",
    "getting worse": "Labelled images are classified less accurately than before training.",
    "unclear": "It is unknown whether the encoder is better than before training.",
    "too short to tell": "The training has too few steps for a measurable change.",
    "collapsed": "All images have nearly the same features: the encoder is unusable.",
    "diverged": "Values grew without bound: the weights are unusable.",
}

PROTOCOL_TITLES: Mapping[str, tuple[str, str]] = {
    "knn": ("k nearest neighbours", "Predicts the class of the most similar labelled images, without training."),
    "linear": ("Linear probe", "Linear classifier on frozen features, trained with all labels."),
    "linear-augmented": ("Linear probe, augmented", "Linear classifier on frozen features of randomly cropped images."),
    "logistic": ("Logistic regression", "Linear classifier on frozen features, optimised to convergence."),
    "semi": ("Few labels", "Classifier trained with a small fraction of the labels."),
    "finetune": ("Fine-tuning", "The whole network, trained further with labels."),
    "retrieval": ("Retrieval", "Whether the nearest images of a test image have its class."),
    "label-free": ("Without labels", "Whether two views of an image find each other, and statistics of the features."),
}
"""Title and explanation of each protocol."""

METRIC_TITLES: Mapping[str, Curve] = {
    "map": Curve(
        "Mean average precision", "", "How high images of the same class rank; 100 % if all rank first.", "percent"
    ),
    "f1": Curve("Micro F1", "%", "F1 over all pairs of an image and a class.", "percent"),
    "pair_auc": CURVES["pair_auc"],
    "view_retrieval": Curve(
        "View recall@1", "%", "How often the nearest of all views is the other view of the same image.", "percent"
    ),
    "view_retrieval_of_5": Curve("View recall@5", "%", "The same for the five nearest views.", "percent"),
    **{name: CURVES[name] for name in ("alignment", "uniformity", "spread")},
    "effective_rank": Curve("Effective rank", "dimensions", "Number of dimensions that the features effectively use."),
}
"""Metrics of an evaluation other than accuracy, in the order of the page."""


def recall_label(k: int) -> Curve:
    """Recall@k of retrieval."""
    nearest = "the nearest image" if k == 1 else f"one of the {k} nearest images"
    return Curve(f"Recall@{k}", "%", f"How often {nearest} has the same class.", "percent")


_CLASSIFIER = {"logistic": "logistic regression", "finetune": "fine-tuning"}
_SHOWN = ("share", "how", "k", "temperature", "epochs", "folds", "image_size", "features", "precision")


def settings_in_short(settings: Mapping[str, object]) -> str:
    """The settings that distinguish an evaluation from others of the same protocol."""
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
        elif name == "how":
            parts.append(_CLASSIFIER.get(str(value), str(value)))
        elif name == "features":
            parts.append(f"{value} features")
        else:
            parts.append(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}")
    return ", ".join(parts)
