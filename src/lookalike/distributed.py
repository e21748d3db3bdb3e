"""Communication between processes. With one process, or outside `torch.distributed`, all of it is a no-op.

The convention: the mean of the processes' losses is the loss of the joined batch. A gradient that comes back through
`gather` or `mean` is therefore summed over the processes, and DistributedDataParallel's averaging does the rest. Every
process must hold a batch of the same size.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .devices import default_device


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Joins the processes' (B, ...) to (world * B, ...) in the order of their ranks, with gradients."""
    return _Gather.apply(x) if world() > 1 else x


def mean(x: Tensor) -> Tensor:
    """The mean of x over the processes, element by element, with gradients."""
    return _Mean.apply(x) if world() > 1 else x


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Puts the mean over the processes into each tensor of floating-point numbers; one exchange for all."""
    kept = [t for t in tensors if t.is_floating_point()]
    if world() > 1 and kept:
        flat = _all_mean(torch.cat([t.flatten() for t in kept]))
        torch._foreach_copy_(
            kept, [part.view_as(t) for t, part in zip(kept, torch.split(flat, [t.numel() for t in kept]))]
        )


def agree(*flags: bool) -> list[bool]:
    """Each flag true on every process if it is true on any: one exchange for all."""
    if world() == 1:
        return list(flags)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    anyone = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(anyone, dist.ReduceOp.MAX)
    return [bool(flag) for flag in anyone.tolist()]


def of_first(*numbers: float) -> list[float]:
    """The first process's numbers, on every process: one exchange for all."""
    if world() == 1:
        return list(numbers)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    told = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return [float(number) for number in told.tolist()]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        joined = x.new_empty(world() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(joined, x.contiguous())
        return joined

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        # in float32 at least: one process would add up before it rounds
        wide = torch.promote_types(grad.dtype, torch.float32)
        summed = grad.to(wide, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(world())[rank()].to(grad.dtype)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return _all_mean(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return _all_mean(grad)  # the gradients' sum, times each process's share in the mean


def _all_mean(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total.div_(world())


class GPUSyncBatchNorm(nn.SyncBatchNorm):
    """torch's own, with the dropout and activation that timm's layers hold; see `SyncBatchNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        x = super().forward(x)
        for child in self.children():
            x = child(x)
        return x


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the joined batch of all processes, on CPUs; `convert` makes it.

    timm's BatchNorm layers hold a dropout and an activation: `convert` keeps them as children under their names, and
    they run after the normalisation. (Not a subclass of torch's: DistributedDataParallel refuses that on CPUs.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        x = self._forward_joined(x) if self.training and world() > 1 else super().forward(x)
        for child in self.children():
            x = child(x)
        return x

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"BatchNorm got a tensor of shape {tuple(x.shape)}; expected (B, C, ...).")

    def _forward_joined(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        center = mean(wide.mean(others))  # (C,)
        shifted = wide - center.view(shape)
        variance = mean(shifted.square().mean(others))  # (C,)
        self._track(center.detach(), variance.detach(), count=world() * x.numel() // x.shape[1])
        out = shifted * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, center: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics, with the unbiased variance of `count` values."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(center.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)


def convert(module: nn.Module) -> nn.Module:
    """Replaces every BatchNorm in `module`, in place, by a synchronised one; returns the module, or its replacement.

    Parameters, buffers, their names and the mode stay: state dicts and optimizers do not notice.
    """
    for name, child in module.named_children():
        module.add_module(name, convert(child))
    if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm | nn.SyncBatchNorm):
        return module
    kind = GPUSyncBatchNorm if default_device().type == "cuda" else SyncBatchNorm
    sync = kind(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
    sync.weight, sync.bias = module.weight, module.bias
    sync.running_mean, sync.running_var = module.running_mean, module.running_var
    sync.num_batches_tracked = module.num_batches_tracked
    for name, child in module.named_children():
        sync.add_module(name, child)
    sync.training = module.training
    return sync
