"""The joint loss of all micro-batches (`--joint-loss`): its checks, and its lines at the start of a run."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..printing import counted
from ..runs import Resolved, method_name


def check_joint_loss(run: Resolved) -> None:
    """Raises ValueError if a joint loss changes nothing for the method, or if micro-batches would differ in size."""
    if not run.joint_loss:
        return
    if not run.method.needs.couples_batch:
        raise ValueError(
            f"--joint-loss is not needed for {method_name(run.method)}: its loss compares an image with its own views, "
            "a queue, prototypes or labels, never with other images of the batch. Micro-batches have the gradients of "
            "their joint batch anyway, except for BatchNorm. Leave --joint-loss out."
        )
    multiple = run.accumulate * run.devices * run.nodes
    if run.batch_size % multiple:
        raise ValueError(
            f"A batch of {run.batch_size} is not divisible into {run.accumulate} micro-batches for each of "
            f"{run.devices * run.nodes} processes. Give a multiple of {multiple}."
        )


def check_micro_batches(run: Resolved, backbone: nn.Module) -> None:
    """Raises ValueError if BatchNorm in the backbone would normalise a single image."""
    own = run.batch_size // (run.accumulate * run.devices * run.nodes)
    if run.joint_loss and own < 2 and _has_batchnorm(backbone):
        raise ValueError(
            f"--batch-size {run.batch_size} in {run.accumulate} micro-batches is {counted(own, 'image')} per "
            "micro-batch and process, and the backbone's BatchNorm needs at least 2. Give a smaller --accumulate."
        )


def lines(run: Resolved, backbone: nn.Module) -> list[str]:
    """How the run differs from one with undivided batches; empty without a joint loss."""
    if not run.joint_loss:
        return []
    own = run.batch_size // run.accumulate
    found = [
        f"joint loss  heads and loss get all {counted(run.batch_size, 'image')} at once; the backbone computes "
        f"{counted(own, 'image')} at a time, and again in the backward pass"
    ]
    if _has_batchnorm(backbone):
        found.append(
            f"            not as in an undivided batch: the backbone's BatchNorm normalises {counted(own, 'image')} "
            "at a time (heads: all); its running statistics move once per step"
        )
    if run.method.needs.drop_path or _has_dropout(backbone):
        found.append("            not as in an undivided batch: drop path and dropout draw other random numbers")
    return found


def _has_batchnorm(backbone: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in backbone.modules())


def _has_dropout(backbone: nn.Module) -> bool:
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in backbone.modules())
