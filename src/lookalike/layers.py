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
        widths: input, hidden and output widths; two or more.
        norm: BatchNorm after the hidden layers, which have no bias then; without it they have one (MoCo v2, SupCon).
        bias: whether the last linear layer has a bias.
        last_norm: BatchNorm after the last layer: "plain" only normalises (SimSiam), "scale" also learns a factor
            (Google's SimCLR), "affine" a factor and a shift.
    """
    if len(widths) < 2:
        raise ValueError(f"mlp got widths {widths}; it needs an input and an output width at least.")
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
    """Runs views of one size through `module` together: one pass per size.

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
    """Embeddings (V, B, D) of V views of B images: the backbone once per size, the head once for all (multi-crop)."""
    joined = projector(torch.cat(by_size(backbone, views)))  # (VB, D), view by view
    return torch.unflatten(joined, 0, (len(views), -1))


class Teacher(nn.Sequential):
    """A copy of a student's parts, run one after the other, that gets no gradient and follows the student.

    Its BatchNorm is in the student's mode, so that it normalises by its own batches and keeps statistics of its own.
    Nothing in it is random: no block is skipped, nothing is dropped. A frozen teacher stays in eval mode.

    Args:
        student: the parts in the order in which they run, such as a backbone and a projector.
        frozen: whether it never changes, as a pretrained teacher. Then its state is a digest of its weights, not the
            weights: a checkpoint stays small, and is refused where the teacher is another.
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
        """What the student's parts would say of x, without a gradient."""
        for part in self:
            x = part(x)
        return x

    def train(self, mode: bool = True) -> "Teacher":
        """As for every module, but a frozen teacher stays in eval mode, and so does what may be random in others.

        In train mode are modules that hold statistics, such as BatchNorm, and those that do something of their own when
        the mode changes, such as forgetting what they computed in eval mode (LeViT).
        """
        super().train(mode and not self.frozen)
        for module in self.modules():
            holds = any(b is not None and b.is_floating_point() for b in module.buffers(recurse=False))
            if module is not self and not holds and type(module).train is nn.Module.train:
                module.training = False
        return self

    def digest(self) -> str:
        """SHA-256 of a frozen teacher's weights, as it was made."""
        assert isinstance(self.sha256, Tensor)
        return self.sha256.cpu().numpy().tobytes().hex()

    def copy(self, *student: nn.Module) -> None:
        """Takes over the student's parameters and BatchNorm statistics as they are."""
        for own, part in zip(self, student, strict=True):
            own.load_state_dict(part.state_dict())

    @torch.no_grad()
    def follow(self, *student: nn.Module, momentum: float) -> None:
        """Moves each parameter to momentum * itself + (1 - momentum) * the student's."""
        torch._foreach_lerp_(_parameters(self), _parameters(*student), 1 - momentum)

    @torch.no_grad()
    def distance(self, *student: nn.Module) -> float:
        """How far the parameters are from the student's, as a share of the student's norm: 0 where they are equal."""
        theirs = _parameters(*student)
        apart = [own - other for own, other in zip(_parameters(self), theirs)]
        return float(get_total_norm(apart) / get_total_norm(theirs))


def _digest_alone(teacher: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix) and name != f"{prefix}sha256"]:
        del state[name]


def _same_digest(teacher: Teacher, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Puts the teacher's own weights into a state that holds their digest."""
    digest = state.get(f"{prefix}sha256")
    if digest is not None and digest.cpu().numpy().tobytes().hex() != teacher.digest():
        raise ValueError(
            "The training began with another teacher: its weights have another digest. Put the teacher back, or start "
            "a new run."
        )
    for name, part in teacher.named_children():
        state |= part.state_dict(prefix=f"{prefix}{name}.")


class Beside:
    """Work that a GPU does beside the work that follows, until it is joined; a CPU simply does it first."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        if device.type != "cuda":
            yield
            return
        self._stream = self._stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # all memory of the last step that lies in this stream's pool was used up by then
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self, device: torch.device) -> None:
        """What is done on the device from here on waits for the work."""
        if self._stream is not None:
            torch.cuda.current_stream(device).wait_stream(self._stream)


def _parameters(*parts: nn.Module) -> list[Tensor]:
    return list(chain.from_iterable(part.parameters() for part in parts))


class Prototypes(nn.Linear):
    """K directions that embeddings are scored against (SwAV): rows of length 1, if `normalize` follows each step."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__(dim, count, bias=False)
        self.normalize()

    def forward(self, z: Tensor) -> Tensor:
        """Cosines (..., K) of embeddings (..., D) of length 1, in their own precision whatever the autocast."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z, self.weight.to(z.dtype))

    @torch.no_grad()
    def normalize(self) -> None:
        """Brings each prototype to length 1."""
        self.weight.copy_(F.normalize(self.weight))


class NormedLinear(nn.Module):
    """A linear layer without bias whose rows have the length g: torch's old weight normalisation, which can be copied.

    Args:
        learn_scale: whether g, which begins at 1, is learnt.
    """

    def __init__(self, dim: int, count: int, *, learn_scale: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=learn_scale)
        self.weight_v = nn.Parameter(torch.empty(count, dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., K), in float32 or float64 whatever the autocast: temperatures magnify what bf16 rounds off.

        At K = 65,536 that is a hundredth of the operations of DINO's ViT-S/16, at the device's rate for float32.
        """
        exact = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(exact), (self.weight_g * F.normalize(self.weight_v)).to(exact))


class DINOHead(nn.Module):
    """Scores of features against K prototypes, through a bottleneck of length 1 (DINO, appendix C; iBOT, DINOv2).

    Args:
        dim, hidden_dim, bottleneck_dim, prototypes: widths of features, hidden layers, bottleneck and scores.
        layers: linear layers up to the bottleneck, 2 or more.
        norm: BatchNorm after each hidden layer, as for CNNs.
        learn_scale: whether the prototypes' lengths are learnt (iBOT, DINOv2); else they stay 1.
        patch_prototypes: as many others for patches (iBOT); None if these are compared with the same.
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
        """Features (..., D), or tokens of patches, -> scores (..., K)."""
        layer = self.patch_layer if patches and self.patch_layer is not None else self.last_layer
        scores: Tensor = layer(self._bottleneck(x))
        return scores

    def last_parameters(self) -> list[nn.Parameter]:
        """Those of the layers that hold prototypes."""
        return [p for layer in (self.last_layer, self.patch_layer) if layer is not None for p in layer.parameters()]

    def freeze_last(self) -> None:
        """Drops the gradients of the layers that hold prototypes.

        The official codes of DINO and iBOT do so after clipping: the same, where each parameter's own norm is clipped.
        """
        for p in self.last_parameters():
            p.grad = None

    def _bottleneck(self, x: Tensor) -> Tensor:
        z = self.mlp(x.reshape(-1, x.shape[-1]))  # BatchNorm takes (N, D)
        z = z.view(*x.shape[:-1], z.shape[-1])
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)


class Center(nn.Module):
    """The moving mean of a teacher's scores, which is taken from them, so that no prototype takes all images."""

    center: Tensor
    """(K,)."""

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))

    def forward(self, scores: Tensor, temperature: float) -> Tensor:
        """Scores (..., K), centred and sharpened, as shares that sum to 1; in float32 or float64."""
        return ((scores.to(self.center.dtype) - self.center) / temperature).softmax(-1)

    @torch.no_grad()
    def move(self, mean: Tensor) -> None:
        """Moves towards the mean (K,) of a step's scores."""
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.momentum)


def joined(outputs: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """A tensor (B, ...) that a step's micro-batches handed over, of all of them and all processes (B over all, ...)."""
    return torch.cat([distributed.gather(each[name]) for each in outputs])


class Queue(nn.Module):
    """The last `size` keys of length 1, first in, first out (MoCo): a buffer, so that a resume goes on with it."""

    keys: Tensor
    """(D, K): one key per column."""
    place: Tensor
    """(1,) int64: the column that the next key takes."""
    added: Tensor
    """(K,) int64: the call of `add` that wrote each column, from 1; 0 for the random keys of the beginning."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("place", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("added", torch.zeros(size, dtype=torch.int64))
        self._is_full = False  # known without asking the device, once it is so
        self.register_load_state_dict_post_hook(_count)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def add(self, keys: Tensor) -> None:
        """Puts keys (B, D), normalised here, in the place of the oldest. With several processes all add the same ones.

        Raises:
            ValueError: B does not divide the queue's size.
        """
        size = self.keys.shape[1]
        if size % len(keys):
            raise ValueError(
                f"A queue of {size} keys is not filled by batches of {len(keys)}. Give a multiple of the batch size."
            )
        columns = (self.place + torch.arange(len(keys), device=self.place.device)) % size
        self.keys[:, columns] = F.normalize(keys.to(self.keys.dtype), dim=1).T
        self.added[columns] = self.added.max() + 1
        self.place.add_(len(keys)).remainder_(size)
        self._is_full = self._is_full or self._has_all()

    def full(self) -> bool:
        """Whether no random key of the beginning is left."""
        return self._is_full

    def _has_all(self) -> bool:
        return bool((self.added > 0).all())

    def age(self) -> float:
        """How many calls of `add` ago the keys were added, on average; random keys count as from before the first."""
        return float((self.added.max() - self.added).float().mean())

    def filled(self) -> float:
        """Share of the keys that are not the random ones of the beginning, in [0, 1]."""
        return float((self.added > 0).float().mean())


def _count(queue: Queue, incompatible: object) -> None:
    queue._is_full = queue._has_all()
