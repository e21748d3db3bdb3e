"""The protocols of an evaluation by name, and their defaults. Imports nothing heavy."""

from typing import Literal

FROZEN = {
    "knn": "weighted votes of the 20 nearest training images",
    "linear": "a linear classifier by SGD, its learning rate chosen on a held-out tenth (DINOv2's)",
    "logistic": "logistic regression by L-BFGS, its penalty chosen on a held-out tenth",
    "semi": "logistic regression with 1 % and 10 % of the labels, drawn ten times",
    "retrieval": "recall@k and mAP of test images as queries for training images of their class",
}
"""The protocols of `run_protocol`, which need only features."""
LABEL_FREE = {"label-free": "scores that need no labels; `pair_auc` orders short trainings most as k-NN does"}
TRAINED = {
    "linear-augmented": "a linear classifier on the frozen encoder, by SGD on crops and flips",
    "semi-finetune": "the whole network, fine-tuned on 1 % and 10 % of the labels",
    "finetune": "the whole network, fine-tuned on all labels",
}
"""Protocols that train on the images themselves; see `trained_scores`."""
PROTOCOLS = {**FROZEN, **LABEL_FREE, **TRAINED}
"""The protocols of `evaluate`, with a line about each."""
MULTI_LABEL = ("knn", "linear", "label-free")
"""Protocols for images that may have several classes."""
EPOCHS = 100
"""Epochs of the protocols that train, over the labelled images, as in DINO's linear probe and MAE's ViT-B."""
SHARES = 0.01, 0.1
"""Fractions of each class's labels, as in the papers' tables."""
FeaturePrecision = Literal["fp32", "bf16"]
"""Of a network's convolutions and matrix products; features are stored in float32."""
Pool = Literal["pooled", "average", "class+average", "last4"]
"""The feature of an image: the encoder's output (a ViT's class token, a CNN's pooled map), the average of the patch
tokens, both concatenated, or the class tokens of the last four blocks, concatenated."""
