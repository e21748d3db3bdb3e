"""The methods by name, as in the command line, help and `run.yaml`, without importing them or torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A method's module and class, and its description in one line."""

    module: str
    cls: str
    line: str
    verb: str = "pretrain"
    """The command that trains it."""


METHODS: dict[str, Entry] = {
    "simclr": Entry("lookalike.methods.simclr", "SimCLR", "two views attract, all other images repel (Chen 2020)"),
    "supcon": Entry("lookalike.methods.supcon", "SupCon", "SimCLR with labels (Khosla 2020)"),
    "moco_v2": Entry("lookalike.methods.moco_v2", "MoCoV2", "negatives from a queue of earlier images (Chen 2020)"),
    "moco_v3": Entry("lookalike.methods.moco_v3", "MoCoV3", "a predictor and a momentum encoder, for ViTs (Chen 2021)"),
    "byol": Entry("lookalike.methods.byol", "BYOL", "predict an EMA of the network; no negatives (Grill 2020)"),
    "simsiam": Entry("lookalike.methods.simsiam", "SimSiam", "predict the other view, stop-gradient (Chen 2021)"),
    "barlow_twins": Entry("lookalike.methods.barlow_twins", "BarlowTwins", "views agree, no redundancy (Zbontar 2021)"),
    "vicreg": Entry("lookalike.methods.vicreg", "VICReg", "invariance, variance, covariance (Bardes 2022)"),
    "lejepa": Entry("lookalike.methods.lejepa", "LeJEPA", "views agree, images spread normally (Balestriero 2025)"),
    "swav": Entry("lookalike.methods.swav", "SwAV", "predict the cluster of another view (Caron 2020)"),
    "deepcluster_v2": Entry(
        "lookalike.methods.deepcluster_v2", "DeepClusterV2", "predict the clusters of k-means (Caron 2020)"
    ),
    "dino": Entry("lookalike.methods.dino", "DINO", "self-distillation, centred and sharpened (Caron 2021)"),
    "ibot": Entry("lookalike.methods.ibot", "IBOT", "DINO and masked patches, for ViTs (Zhou 2022)"),
    "dinov2": Entry("lookalike.methods.dinov2", "DINOv2", "DINO, iBOT and KoLeo, for ViTs (Oquab 2024)"),
    "distill": Entry("lookalike.methods.distill", "Distill", "learn from a frozen, pretrained teacher", "distill"),
    "finetune": Entry("lookalike.methods.finetune", "FineTune", "learn classes from labels (MAE's recipe)", "finetune"),
}

SELF_SUPERVISED = tuple(name for name, entry in METHODS.items() if entry.verb == "pretrain")
"""Methods that `pretrain` takes: all but distillation and fine-tuning."""
