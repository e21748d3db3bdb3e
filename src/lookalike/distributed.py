"""Communication between processes; a no-op with one process or outside `torch.distributed`.

Convention: the mean of the processes' losses is the loss of the joint batch. Gradients through `gather` and `mean` are
therefore summed over processes, and DistributedDataParallel averages the result. Every process must have a batch of the
same size.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .devices import default_device


def rank() -> int:
    """The index of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Concatenates the (B, ...) of all processes to (world * B, ...), ordered by rank, with gradients."""
    return _Gather.apply(x) if world() > 1 else x


def mean(x: Tensor) -> Tensor:
    """The elementwise mean of x over processes, with gradients."""
    return _Mean.apply(x) if world() > 1 else x


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Sets each floating-point tensor to its mean over processes, in place; one all-reduce for all."""
    floats = [t for t in tensors if t.is_floating_point()]
    if world() > 1 and floats:
        flat = _all_mean(torch.cat([t.flatten() for t in floats]))
        torch._foreach_copy_(
            floats, [part.view_as(t) for t, part in zip(floats, torch.split(flat, [t.numel() for t in floats]))]
        )


def agree(*flags: bool) -> list[bool]:
    """Logical or of each flag over processes; one all-reduce for all."""
    if world() == 1:
        return list(flags)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    anyone = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(anyone, dist.ReduceOp.MAX)
    return [bool(flag) for flag in anyone.tolist()]


def of_first(*numbers: float) -> list[float]:
    """The numbers of the first process, on every process; one broadcast for all."""
    if world() == 1:
        return list(numbers)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    values = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.broadcast(values, 0)
    return [float(value) for value in values.tolist()]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        joined = x.new_empty(world() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(joined, x.contiguous())
        return joined

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        # at least float32: a single process would also round after the sum
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
        return _all_mean(grad)  # the sum of the gradients, times 1 / world


def _all_mean(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total.div_(world())


class GPUSyncBatchNorm(nn.SyncBatchNorm):
    """torch's own, followed by the dropout and activation of timm's layers; see `SyncBatchNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        x = super().forward(x)
        for child in self.children():
            x = child(x)
        return x


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the joint batch of all processes, on CPUs; created by `convert`.

    timm's BatchNorm layers include a dropout and an activation: `convert` adds them as children under their names, and
    they run after the normalisation. (Not a subclass of torch's, which DistributedDataParallel refuses on CPUs.)
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
        """Updates the running statistics, with the unbiased variance of `count` values."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(center.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), momentum)


def convert(module: nn.Module) -> nn.Module:
    """Replaces every BatchNorm in `module` by a synchronised one, in place; returns the module, or its replacement.

    Parameters, buffers, their names and the mode are unchanged, so state dicts and optimizers remain valid.
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
