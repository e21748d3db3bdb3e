"""What an evaluation can be asked: its protocols by name, and their defaults. Importing it brings along nothing."""

from typing import Literal

FROZEN = {
    "knn": "weighted votes of the 20 nearest training images",
    "linear": "a linear classifier by SGD, its learning rate chosen on a held-out tenth (DINOv2's)",
    "logistic": "logistic regression by L-BFGS, its penalty chosen on a held-out tenth",
    "semi": "logistic regression with 1 % and 10 % of the labels, drawn ten times",
    "retrieval": "recall@k and mAP of test images that look for training images of their class",
}
"""What `run_protocol` knows: protocols that need nothing but features."""
LABEL_FREE = {"label-free": "scores that need no labels; `pair_auc` orders short trainings most as k-NN does"}
TRAINED = {
    "linear-augmented": "a linear classifier on the frozen encoder, by SGD on crops and flips",
    "semi-finetune": "the whole network, fine-tuned on 1 % and 10 % of the labels",
    "finetune": "the whole network, fine-tuned on all labels",
}
"""Protocols that train on the images themselves; see `trained_scores`."""
PROTOCOLS = {**FROZEN, **LABEL_FREE, **TRAINED}
"""What `evaluate` knows, and a line about each."""
EPOCHS = 100
"""Of the protocols that train, over the labelled images: DINO's linear probe, MAE's ViT-B."""
SHARES = 0.01, 0.1
"""Of each class's labels, that the tables of the papers have."""
Pool = Literal["pooled", "average", "class+average", "last4"]
"""What stands for an image: what the encoder gives (a ViT's class token, a CNN's pooled map), the average of its patch
tokens, the first beside the second, or the class tokens of the last four blocks side by side."""
