"""Parts that several methods are built from."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from . import distributed
from .modes import without_chance


def mlp(
    *widths: int,
    norm: bool = True,
    bias: bool = True,
    last_norm: Literal["none", "plain", "scale", "affine"] = "none",
) -> nn.Sequential:
    """A projector (B, widths[0]) -> (B, widths[-1]): linear, BatchNorm and ReLU per hidden width, then a linear layer.

    Args:
        widths: input, hidden and output widths; at least 2.
        norm: BatchNorm after the hidden layers, which then have no bias; without it they have one (MoCo v2, SupCon).
        bias: whether the last linear layer has a bias.
        last_norm: BatchNorm after the last layer: "plain" only normalises (SimSiam), "scale" also learns a factor
            (Google's SimCLR), "affine" a factor and a shift.
    """
    if len(widths) < 2:
        raise ValueError(f"mlp got widths {widths}; it needs at least an input and an output width.")
    layers: list[nn.Module] = []
    for last, width in pairwise(widths[:-1]):
        layers.append(nn.Linear(last, width, bias=not norm))
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(widths[-2], widths[-1], bias=bias))
    if last_norm != "none":
        closing = nn.BatchNorm1d(widths[-1], affine=last_norm != "plain")
        if last_norm == "scale":
            closing.register_parameter("bias", None)
        layers.append(closing)
    return nn.Sequential(*layers)


def by_size(module: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """Passes views of the same size through `module` together: one pass per size.

    Args:
        module: maps (B, C, H, W) to a tensor whose first axis is B.
        views: V tensors (B, C, H, W) of any sizes.

    Returns:
        The V outputs, in the order of `views`.
    """
    sizes: dict[torch.Size, list[int]] = {}
    for i, view in enumerate(views):
        sizes.setdefault(view.shape[1:], []).append(i)
    outputs: dict[int, Tensor] = {}
    for same in sizes.values():
        joined = module(torch.cat([views[i] for i in same]))
        outputs |= zip(same, torch.split(joined, [len(views[i]) for i in same]))
    return [outputs[i] for i in range(len(views))]


def embed(
    backbone: Callable[[Tensor], Tensor], projector: Callable[[Tensor], Tensor], views: Sequence[Tensor]
) -> Tensor:
    """Embeddings (V, B, D) of V views of B images: one backbone pass per size, one head pass for all (multi-crop)."""
    joined = projector(torch.cat(by_size(backbone, views)))  # (VB, D), view by view
    return torch.unflatten(joined, 0, (len(views), -1))


class Teacher(nn.Sequential):
    """A copy of a student's parts, run in sequence, without gradients; it follows the student as an EMA.

    Its BatchNorm has the student's mode: in training it normalises by batch statistics and updates its own running
    ones. It has no drop path and no dropout. A frozen teacher stays in eval mode.

    Args:
        student: the parts in the order in which they run, such as a backbone and a projector.
        frozen: never change, as a pretrained teacher. Its state dict then holds a digest of the weights instead of the
            weights: checkpoints stay small, and are refused with another teacher.
    """

    def __init__(self, *student: nn.Module, frozen: bool = False) -> None:
        super().__init__(*(copy.deepcopy(part) for part in student))
        self.frozen = frozen
        self.requires_grad_(False)
        without_chance(self)
        if frozen:
            from .tensor_file import sha256

            self.register_buffer("sha256", torch.frombuffer(bytearray.fromhex(sha256(self)), dtype=torch.int64))
            self.register_state_dict_post_hook(_digest_alone)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_same_digest)  # type: ignore[no-untyped-call]
        self.train(self.training)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The output of the parts for x, without gradients."""
        for part in self:
            x = part(x)
        return x

    def train(self, mode: bool = True) -> "Teacher":
        """Like `nn.Module.train`, but a frozen teacher stays in eval mode, and so do modules that may be random.

        Modules with running statistics, such as BatchNorm, change their mode. So do modules with their own `train`,
        such as LeViT's, which drops what it cached in eval mode.
        """
        super().train(mode and not self.frozen)
        for module in self.modules():
            holds = any(b is not None and b.is_floating_point() for b in module.buffers(recurse=False))
            if module is not self and not holds and type(module).train is nn.Module.train:
                module.training = False
        return self

    def digest(self) -> str:
        """SHA-256 of a frozen teacher's weights, computed when it was created."""
        assert isinstance(self.sha256, Tensor)
        return self.sha256.cpu().numpy().tobytes().hex()

    def copy(self, *student: nn.Module) -> None:
        """Copies the student's parameters and BatchNorm statistics."""
        for own, part in zip(self, student, strict=True):
            own.load_state_dict(part.state_dict())

    @torch.no_grad()
    def follow(self, *student: nn.Module, momentum: float) -> None:
        """Moves each parameter to momentum * itself + (1 - momentum) * the student's."""
        torch._foreach_lerp_(_parameters(self), _parameters(*student), 1 - momentum)

    @torch.no_grad()
    def distance(self, *student: nn.Module) -> float:
        """Norm of the difference from the student's parameters, relative to their norm; 0 if they are equal."""
        theirs = _parameters(*student)
        differences = [own - other for own, other in zip(_parameters(self), theirs)]
        return float(get_total_norm(differences) / get_total_norm(theirs))


def _digest_alone(teacher: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix) and name != f"{prefix}sha256"]:
        del state[name]


def _same_digest(teacher: Teacher, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Adds the teacher's own weights to a state dict that holds their digest."""
    digest = state.get(f"{prefix}sha256")
    if digest is not None and digest.cpu().numpy().tobytes().hex() != teacher.digest():
        raise ValueError(
            "The training began with another teacher: the digest of its weights differs. Give that teacher, or start "
            "a new run."
        )
    for name, part in teacher.named_children():
        state |= part.state_dict(prefix=f"{prefix}{name}.")


class SideStream:
    """Runs work on a side CUDA stream until `join()`; on a CPU, runs it immediately."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        if device.type != "cuda":
            yield
            return
        self._stream = self._stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # the last step no longer uses its memory in this stream's pool by then
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self, device: torch.device) -> None:
        """Makes all later work on the device wait for the work on the side stream."""
        if self._stream is not None:
            torch.cuda.current_stream(device).wait_stream(self._stream)


def _parameters(*parts: nn.Module) -> list[Tensor]:
    return list(chain.from_iterable(part.parameters() for part in parts))


class Prototypes(nn.Linear):
    """K prototypes, as rows of unit length if `normalize` is called after each step (SwAV)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__(dim, count, bias=False)
        self.normalize()

    def forward(self, z: Tensor) -> Tensor:
        """Unit-length embeddings (..., D) -> cosine similarities (..., K), in their precision, without autocast."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z, self.weight.to(z.dtype))

    @torch.no_grad()
    def normalize(self) -> None:
        """Scales each prototype to unit length."""
        self.weight.copy_(F.normalize(self.weight))


class NormedLinear(nn.Module):
    """A linear layer without bias whose rows have length g: torch's old weight normalisation, but it can be copied.

    Args:
        learn_scale: train g, which is 1 at first.
    """

    def __init__(self, dim: int, count: int, *, learn_scale: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=learn_scale)
        self.weight_v = nn.Parameter(torch.empty(count, dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., K), in float32 or float64, no autocast: low temperatures magnify bf16's rounding errors.

        At K = 65,536 this is 1 % of the operations of DINO's ViT-S/16, at the device's float32 rate.
        """
        exact = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(exact), (self.weight_g * F.normalize(self.weight_v)).to(exact))


class DINOHead(nn.Module):
    """Scores of features against K prototypes, through a bottleneck of unit length (DINO, appendix C; iBOT, DINOv2).

    Args:
        dim, hidden_dim, bottleneck_dim, prototypes: dimensions of features, hidden layers, bottleneck and scores.
        layers: number of linear layers up to the bottleneck, at least 2.
        norm: BatchNorm after each hidden layer, as for CNNs.
        learn_scale: train the lengths of the prototypes (iBOT, DINOv2); otherwise they are 1.
        patch_prototypes: number of separate prototypes for patches (iBOT); None if they share the others.
    """

    def __init__(
        self, dim: int, hidden_dim: int, bottleneck_dim: int, prototypes: int, *, layers: int = 3, norm: bool = False,
        learn_scale: bool = False, patch_prototypes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        parts: list[nn.Module] = []
        for last, width in pairwise([dim] + [hidden_dim] * (layers - 1)):
            parts += [nn.Linear(last, width), *([nn.BatchNorm1d(width)] if norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*parts, nn.Linear(hidden_dim, bottleneck_dim))
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.last_layer = NormedLinear(bottleneck_dim, prototypes, learn_scale=learn_scale)
        self.patch_layer: NormedLinear | None = None
        if patch_prototypes is not None:
            self.patch_layer = NormedLinear(bottleneck_dim, patch_prototypes, learn_scale=learn_scale)

    def forward(self, x: Tensor, *, patches: bool = False) -> Tensor:
        """Features or patch tokens (..., D) -> scores (..., K)."""
        layer = self.patch_layer if patches and self.patch_layer is not None else self.last_layer
        scores: Tensor = layer(self._bottleneck(x))
        return scores

    def last_parameters(self) -> list[nn.Parameter]:
        """The parameters of the layers that hold prototypes."""
        return [p for layer in (self.last_layer, self.patch_layer) if layer is not None for p in layer.parameters()]

    def freeze_last(self) -> None:
        """Drops the gradients of the layers that hold prototypes.

        The official codes of DINO and iBOT do this after clipping, which is the same if clipping is per parameter.
        """
        for p in self.last_parameters():
            p.grad = None

    def _bottleneck(self, x: Tensor) -> Tensor:
        z = self.mlp(x.reshape(-1, x.shape[-1]))  # BatchNorm takes (N, D)
        z = z.view(*x.shape[:-1], z.shape[-1])
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)


class Center(nn.Module):
    """The EMA of a teacher's mean scores, which is subtracted so that no prototype dominates."""

    center: Tensor
    """(K,)."""

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))

    def forward(self, scores: Tensor, temperature: float) -> Tensor:
        """Scores (..., K) -> centred and sharpened probabilities (..., K), in float32 or float64."""
        return ((scores.to(self.center.dtype) - self.center) / temperature).softmax(-1)

    @torch.no_grad()
    def move(self, mean: Tensor) -> None:
        """Updates the EMA with the mean (K,) of a step's scores."""
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.momentum)


def joined(outputs: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """A step's outputs `name` (B, ...), concatenated over micro-batches and processes."""
    return torch.cat([distributed.gather(each[name]) for each in outputs])


class Queue(nn.Module):
    """The last `size` keys, unit length, first in, first out (MoCo): buffers, so that checkpoints hold them."""

    keys: Tensor
    """(D, K): one key per column."""
    place: Tensor
    """(1,) int64: the column of the next key."""
    added: Tensor
    """(K,) int64: the call of `add` that wrote each column, from 1; 0 for the initial random keys."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("place", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("added", torch.zeros(size, dtype=torch.int64))
        self._is_full = False  # cached, so that a full queue needs no synchronisation with the device
        self.register_load_state_dict_post_hook(_count)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def add(self, keys: Tensor) -> None:
        """Replaces the oldest keys by `keys` (B, D), normalised here. Several processes must add the same keys.

        Raises:
            ValueError: B does not divide the queue's size.
        """
        size = self.keys.shape[1]
        if size % len(keys):
            raise ValueError(
                f"A queue of {size} keys is not a multiple of a batch of {len(keys)}. Give a multiple of the batch "
                "size."
            )
        columns = (self.place + torch.arange(len(keys), device=self.place.device)) % size
        self.keys[:, columns] = F.normalize(keys.to(self.keys.dtype), dim=1).T
        self.added[columns] = self.added.max() + 1
        self.place.add_(len(keys)).remainder_(size)
        self._is_full = self._is_full or self._has_all()

    def full(self) -> bool:
        """Whether all initial random keys have been replaced."""
        return self._is_full

    def _has_all(self) -> bool:
        return bool((self.added > 0).all())

    def age(self) -> float:
        """Mean age of the keys, in calls of `add`; initial random keys count as added before the first call."""
        return float((self.added.max() - self.added).float().mean())

    def filled(self) -> float:
        """Fraction of the keys that are not initial random ones, in [0, 1]."""
        return float((self.added > 0).float().mean())


def _count(queue: Queue, incompatible: object) -> None:
    queue._is_full = queue._has_all()
