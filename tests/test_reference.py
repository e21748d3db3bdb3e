"""Every case of every reference file against our code: results, gradients, and float64 results.

A check computes all arrays that a case stores; an array, case or file that no check knows is a failure. Formulas,
sources and tolerances are in the folder's README. LOOKALIKE_REFERENCE names another folder of the same kind.
"""

import ast
import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from support.reference import REFERENCE, read

from lookalike import backbones, losses
from lookalike.core import Batch, Progress
from lookalike.evaluation.knn import knn
from lookalike.layers import Center, DINOHead, Prototypes, Queue
from lookalike.methods.deepcluster_v2 import DeepClusterV2
from lookalike.methods.dino import DINO
from lookalike.optim import Optim
from lookalike.optimizers import LARS
from lookalike.schedules import Schedule
from lookalike.sinkhorn import sinkhorn

Case = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]

PENDING: dict[str, str] = {}
"""Files that wait for a method: the change that adds it moves the file to CHECKS."""

ELSEWHERE = {
    "mask_statistics": "test_masks.py",
    "vit_dino_p16": "test_official.py",
    "vit_dinov2_reg0": "test_official.py",
    "vit_dinov2_reg4": "test_official.py",
    "vit_dinov2_swiglu": "test_official.py",
}
"""Files that another test checks."""

TOLERANCE = {"out": 5e-6, "grad": 1e-5, "out64": 1e-10}
TOLERANCE_OF = {
    ("knn_dino", "out/votes"): 1e-5,
    ("schedules", ""): 1e-12,
    # these references keep a few constants in float32
    ("dinov2_ibot_patch_loss", "out64/loss_ce"): 1e-7,
    ("dinov2_ibot_patch_loss", "out64/loss_dense_ce"): 1e-7,
    ("lejepa_sigreg", "out64/loss"): 1e-7,
    ("lejepa_sigreg", "out64/loss_sigreg"): 1e-7,
    ("lejepa_sigreg", "out64/loss_invariance"): 1e-7,
}
EXACT = {"knn_dino": {"out/top1_percent", "out/top5_percent"}}


def simclr_ntxent(case: Case) -> Arrays:
    temperature = case["hp/temperature"].item()
    z0, z1 = (torch.from_numpy(case[f"in/{z}"]).requires_grad_() for z in ("z0", "z1"))
    loss = losses.nt_xent(z0, z1, temperature)
    loss.backward()
    loss64 = losses.nt_xent(z0.detach().double(), z1.detach().double(), temperature)
    return arrays({"out/loss": loss, "grad/z0": z0.grad, "grad/z1": z1.grad, "out64/loss": loss64})


def supcon(case: Case) -> Arrays:
    z = torch.from_numpy(case["in/z"]).requires_grad_()
    n, v, _ = z.shape
    labels = torch.from_numpy(case["in/labels"]) if "in/labels" in case else None
    temperatures = case["hp/temperature"].item(), case["hp/base_temperature"].item()
    loss = losses.supcon(z, labels, *temperatures)
    loss.backward()
    # the official code gets normalised features and its gradient does not go through the normalisation
    f = torch.nn.functional.normalize(z.detach(), dim=-1).requires_grad_()
    classes = (torch.arange(n) if labels is None else labels).repeat_interleave(v)
    losses._supcon(f.flatten(0, 1), classes, *temperatures).backward()
    loss64 = losses.supcon(z.detach().double(), labels, *temperatures)
    return arrays(
        {"out/loss": loss, "out/features": f, "grad/z": z.grad, "grad/features": f.grad, "out64/loss": loss64}
    )


def tensors(case: Case, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(case[f"in/{name}"]).requires_grad_() for name in names]


def moco_v2(case: Case) -> Arrays:
    q, k, keys = tensors(case, "q", "k", "queue")
    temperature = case["hp/temperature"].item()
    queue = Queue(len(keys), keys.shape[1])
    queue.keys.copy_(keys.detach())
    queue.place.fill_(case["hp/queue_ptr"].item())
    loss = losses.info_nce(q, k, queue.keys, temperature)
    loss.backward()
    assert k.grad is None
    logits = losses.queue_scores(q, k, queue.keys, temperature)
    queue.add(k.detach())
    loss64 = losses.info_nce(q.detach().double(), k.detach().double(), keys.detach().double(), temperature)
    return arrays(
        {
            "out/loss": loss, "out/logits": logits, "grad/q": q.grad, "out64/loss": loss64,
            "out/queue_after": queue.keys, "out/queue_ptr_after": queue.place,
        }
    )  # fmt: skip


def moco_v3(case: Case) -> Arrays:
    temperature = case["hp/temperature"].item()
    out: Arrays = {}
    q1, q2, k1, k2 = tensors(case, "q1", "q2", "k1", "k2")
    for prefix, dtype in (("out", torch.float32), ("out64", torch.float64)):
        one, two = (losses.contrast(q.to(dtype), k.to(dtype), temperature) for q, k in ((q1, k2), (q2, k1)))
        out |= arrays({f"{prefix}/loss": one + two, f"{prefix}/loss_q1k2": one, f"{prefix}/loss_q2k1": two})
        if prefix == "out":
            (one + two).backward()
    assert k1.grad is k2.grad is None
    return out | arrays({"grad/q1": q1.grad, "grad/q2": q2.grad})


def byol(case: Case) -> Arrays:
    p1, p2, t1, t2 = tensors(case, "p1", "p2", "t1", "t2")
    one, two = losses.byol(p1, t2), losses.byol(p2, t1)
    loss = (one + two).mean()
    loss.backward()
    assert t1.grad is t2.grad is None
    loss64 = sum(losses.byol(p.detach().double(), t.detach().double()).mean() for p, t in ((p1, t2), (p2, t1)))
    return arrays(
        {
            "out/loss": loss, "out/per_sample_1": one, "out/per_sample_2": two, "grad/p1": p1.grad, "grad/p2": p2.grad,
            "out64/loss": loss64,
        }
    )  # fmt: skip


def barlow_twins(case: Case) -> Arrays:
    z1, z2 = tensors(case, "z1", "z2")
    numbers = case["hp/lambd"].item(), case["hp/bn_eps"].item()
    loss = losses.barlow_twins(z1, z2, *numbers)
    loss.backward()
    loss64 = losses.barlow_twins(z1.detach().double(), z2.detach().double(), *numbers)
    return arrays({"out/loss": loss, "grad/z1": z1.grad, "grad/z2": z2.grad, "out64/loss": loss64})


def named(prefix: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/loss" if name == "loss" else f"{prefix}/loss_{name}": value for name, value in parts.items()}


def vicreg(case: Case) -> Arrays:
    z1, z2 = tensors(case, "z1", "z2")
    numbers = [case[f"hp/{name}"].item() for name in ("sim_coeff", "std_coeff", "cov_coeff", "eps")]
    parts = losses.vicreg(z1, z2, *numbers)
    parts["loss"].backward()
    parts64 = losses.vicreg(z1.detach().double(), z2.detach().double(), *numbers)
    return arrays(named("out", parts) | named("out64", parts64) | {"grad/z1": z1.grad, "grad/z2": z2.grad})


def lejepa_sigreg(case: Case) -> Arrays:
    z, directions = tensors(case, "proj", "A")
    lamb, t_max, points = (case[f"hp/{name}"].item() for name in ("lamb", "t_max", "n_points"))
    parts = losses.lejepa(z, directions, len(z), lamb, t_max, points)
    parts["loss"].backward()
    statistic = losses.epps_pulley(z @ directions, t_max, points)
    parts64 = losses.lejepa(z.detach().double(), directions.detach().double(), len(z), lamb, t_max, points)
    return arrays(
        named("out", parts)
        | named("out64", parts64)
        | {"grad/proj": z.grad, "out/statistic_per_view_and_direction": statistic}
    )


def swav(case: Case) -> Arrays:
    epsilon, iterations = case["hp/epsilon"].item(), case["hp/sinkhorn_iterations"].item()
    if "in/scores" in case:
        scores = torch.from_numpy(case["in/scores"])
        return arrays({f"{key}/q": sinkhorn(s, epsilon, iterations) for key, s in both_precisions(scores)})
    n, temperature = case["hp/batch_size"].item(), case["hp/temperature"].item()
    out: Arrays = {}
    for key, z in both_precisions(torch.from_numpy(case["in/z"])):
        prototypes = Prototypes(z.shape[1], len(case["in/prototypes_raw"])).to(z.dtype)
        prototypes.weight.data = torch.from_numpy(case["in/prototypes_raw"]).to(z.dtype, copy=True)
        prototypes.normalize()
        z.requires_grad_()
        unit = losses.unit(z)
        scores = prototypes(unit)
        scores.retain_grad()
        crops = scores.unflatten(0, (-1, n))
        shares, queues = [], []
        for i in range(2):
            rows = crops[i].detach()
            if "in/queue" in case:
                # the official queue shifts: its oldest rows, which are last, lie where ours is written to next
                old = torch.from_numpy(case["in/queue"][i]).to(z.dtype)
                queue = Queue(z.shape[1], len(old)).to(z.dtype)
                queue.keys.copy_(old.roll(n, 0).T)
                rows = torch.cat([prototypes(old), rows]).detach()
                queue.add(unit.detach().unflatten(0, (-1, n))[i])
                queues.append(queue.keys.T)
            shares.append(sinkhorn(rows, epsilon, iterations)[-n:])
        loss = losses.cross_view(crops, torch.stack(shares), temperature)
        out |= arrays({f"{key}/loss": loss})
        if key == "out64":
            continue
        loss.backward()
        out |= arrays(
            {
                "out/scores": scores, "out/prototypes": prototypes.weight, "out/q0_last_batch": shares[0],
                "out/q1_last_batch": shares[1], "grad/z": z.grad, "grad/scores": scores.grad,
                "grad/prototypes": prototypes.weight.grad,
            }
        )  # fmt: skip
        if queues:
            out |= arrays({"out/queue_after": torch.stack(queues)})
    return out


def both_precisions(x: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    return [("out", x.clone()), ("out64", x.double())]


def deepcluster_v2(case: Case) -> Arrays:
    """The method itself, with the case's bank and a network that gives the case's z; its k-means from the case's rows.

    The official bank lies in the order of visits, ours in that of the images.
    """
    n, size = case["hp/batch_size"].item(), case["hp/n_prototypes"].tolist()
    index, batch = (torch.from_numpy(case[f"in/{name}"]) for name in ("memory_index", "batch_index"))
    out: Arrays = {}
    for key, z in both_precisions(torch.from_numpy(case["in/z"])):
        z.requires_grad_()
        cfg = DeepClusterV2.Config(
            hidden_dim=4, out_dim=z.shape[1], prototypes=tuple(size), bank=len(index),
            kmeans_iterations=case["hp/kmeans_iters"].item(), temperature=case["hp/temperature"].item(),
        )  # fmt: skip
        method = DeepClusterV2(cfg, backbones.create("test_resnet", image_size=32)).to(z.dtype)
        method._embed = lambda views, z=z: losses.unit(z).unflatten(0, (-1, n))  # type: ignore[method-assign]
        method.bank[:, index] = torch.from_numpy(case["in/memory_embeddings"]).to(z.dtype)
        places = [index[torch.from_numpy(case[f"in/init_rows_head{h}"])] for h in range(len(size))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "lookalike.methods.deepcluster_v2.permutation", lambda n, *names, places=places: places[names[-1]]
            )
            method._cluster(0)
        if key == "out":
            for h, head in enumerate(method.prototypes):
                head.requires_grad_()
                out |= arrays(
                    {f"out/assignments_head{h}": method.assignments[h], f"out/centroids_head{h}": head.weight}
                )
        at = Progress(0, 20, 10)
        outputs = method(Batch([torch.empty(n, 3, 1, 1)] * (len(z) // n), batch, at))
        loss = outputs["loss"]
        out |= arrays({f"{key}/loss": loss})
        if key == "out":
            loss.backward()
            out |= arrays({"grad/z": z.grad})
            out |= arrays({f"grad/centroids_head{h}": head.weight.grad for h, head in enumerate(method.prototypes)})
            method.after_step(at, [{name: value.detach() for name, value in outputs.items()}])
            visited = index.clone()
            visited[:n] = batch
            embeddings = method.bank[:, visited]
            # the official one has the batch's images twice now, and keeps their old embeddings where they were
            twice = torch.isin(visited, batch)
            twice[:n] = False
            embeddings[:, twice] = torch.from_numpy(case["in/memory_embeddings"])[:, twice]
            out |= arrays({"out/memory_index_after": visited, "out/memory_embeddings_after": embeddings})
    return out


def dino_loss(case: Case) -> Arrays:
    """Through the method's own targets and centre."""
    epochs, at_epoch = case["hp/nepochs"].item(), case["hp/epoch"].item()
    warm = case["hp/warmup_teacher_temp"].item(), case["hp/warmup_teacher_temp_epochs"].item()
    temperature = Schedule(
        case["hp/teacher_temp"].item(), None, "constant", warm[1], warm[0], every="epoch", grid="dino"
    )
    out: Arrays = {"out/teacher_temp_schedule": np.array(values(temperature, epochs, 1))}
    at = Progress(at_epoch, epochs, 1)
    out["out/teacher_temp_used"] = np.float64(temperature(at))
    for key, student in both_precisions(torch.from_numpy(case["in/student"])):
        student.requires_grad_()
        k = student.shape[1]
        cfg = DINO.Config(hidden_dim=4, bottleneck_dim=4, prototypes=k, teacher_temp=temperature,
                          student_temp=case["hp/student_temp"].item(),
                          center_momentum=case["hp/center_momentum"].item())  # fmt: skip
        method = DINO(cfg, backbones.create("test_resnet", image_size=32)).to(student.dtype)
        method.center.center.copy_(torch.from_numpy(case["in/center"][0]))
        for step in ("", "_step2"):
            t = torch.from_numpy(case[f"in/teacher{step}"]).to(student.dtype).unflatten(0, (2, -1))
            s = student.unflatten(0, (-1, t.shape[1]))
            loss = losses.cross_view(s, method.center(t, temperature(at)), cfg.student_temp)
            method.after_step(at, [{"mean": t.mean((0, 1))[None]}])
            out |= arrays({f"{key}/loss{step}": loss})
            if key == "out":
                out |= arrays({f"out/center_after{step}": method.center.center[None].clone()})
                if not step:
                    loss.backward()
                    out |= arrays({"grad/student": student.grad})
    return out


def koleo(case: Case) -> Arrays:
    (x,) = tensors(case, "x")
    eps = case["hp/eps"].item()
    loss = losses.koleo(x, eps)
    loss.backward()
    u = losses.unit(x.detach())
    nearest = (u @ u.T).fill_diagonal_(-2).argmax(1)
    loss64 = losses.koleo(x.detach().double(), eps)
    return arrays({"out/loss": loss, "out/nearest": nearest, "grad/x": x.grad, "out64/loss": loss64})


def ibot_loss(case: Case) -> Arrays:
    hp = {key.removeprefix("hp/"): value.item() for key, value in case.items() if key.startswith("hp/")}
    at, warm = Progress(hp["epoch"], hp["nepochs"], 1), hp["warmup_teacher_temp_epochs"]

    def temperature(n: str) -> float:
        first, last = hp[f"warmup_teacher_temp{n}"], hp[f"teacher_temp{n}"]
        return Schedule(last, None, "constant", warm, first, every="epoch", grid="dino")(at)

    tau, tau2 = temperature(""), temperature("2")
    names = [n for n in ("student_cls", "student_patch", "student_local_cls") if f"in/{n}" in case]
    hidden = torch.from_numpy(case["in/masks"]).flatten(0, 1).flatten(1)  # (2N, patches)
    n = len(hidden) // 2
    per_image = hidden.sum(1, keepdim=True).expand_as(hidden)[hidden]
    out: Arrays = {"out/teacher_temp_used": np.float64(tau), "out/teacher_temp2_used": np.float64(tau2)}
    for key, dtype in (("out", torch.float32), ("out64", torch.float64)):
        inputs = {name: torch.from_numpy(case[f"in/{name}"]).to(dtype, copy=True).requires_grad_() for name in names}
        t, t_patch = (torch.from_numpy(case[f"in/teacher_{part}"]).to(dtype) for part in ("cls", "patch"))
        centers = []
        for name, momentum in (("center", "center_momentum"), ("center2", "center_momentum2")):
            center = Center(case[f"in/{name}"].size, hp[momentum]).to(dtype)
            center.center.copy_(torch.from_numpy(case[f"in/{name}"]).flatten())
            centers.append(center)
        crops = torch.cat([x for name, x in inputs.items() if name != "student_patch"]).unflatten(0, (-1, n))
        image = losses.cross_view(crops, centers[0](t.unflatten(0, (2, n)), tau), hp["student_temp"])
        patch = losses.masked_patches(
            inputs["student_patch"][hidden], centers[1](t_patch[hidden], tau2), per_image, 2 * n, hp["student_temp"]
        )
        loss = hp["lambda1"] * image + hp["lambda2"] * patch
        out |= arrays({f"{key}/loss": loss, f"{key}/loss_cls": image, f"{key}/loss_patch": patch})
        if key == "out":
            loss.backward()
            centers[0].move(t.mean(0))
            centers[1].move(t_patch.mean((0, 1)))
            out |= arrays({f"grad/{name}": x.grad for name, x in inputs.items()})
            out |= arrays(
                {"out/center_after": centers[0].center[None], "out/center2_after": centers[1].center[None, None]}
            )
    return out


def moved(case: Case, rows: torch.Tensor) -> torch.Tensor:
    """The centre after a step whose scores were `rows`, in the reference's shape."""
    center = Center(rows.shape[-1], case["hp/center_momentum"].item())
    center.center.copy_(torch.from_numpy(case["in/center"]).flatten())
    center.move(rows.mean(0))
    return center.center.view(case["in/center"].shape)


def targets(case: Case, scores: torch.Tensor) -> dict[str, torch.Tensor]:
    """By both kinds of centring, of scores (rows, K); Sinkhorn always in float32."""
    temperature = case["hp/teacher_temp"].item()
    center = Center(scores.shape[-1], 0.9).to(scores.dtype)
    center.center.copy_(torch.from_numpy(case["in/center"]).flatten())
    return {
        "sk": sinkhorn(scores, temperature, case["hp/sinkhorn_iterations"].item()), "ce": center(scores, temperature),
    }  # fmt: skip


def dinov2_dino_loss(case: Case) -> Arrays:
    n, student_temp = case["in/student_global"].shape[0] // 2, case["hp/student_temp"].item()
    n_local = case["hp/n_local"].item()
    teacher = torch.from_numpy(case["in/teacher_global"])
    out = arrays({"out/center_after": moved(case, teacher)})
    for key, dtype in (("out", torch.float32), ("out64", torch.float64)):
        for kind, p in targets(case, teacher.to(dtype)).items():
            if (key, kind) == ("out64", "sk"):
                continue
            names = ("in/student_global", "in/student_local")
            student, local = (torch.from_numpy(case[x]).to(dtype, copy=True).requires_grad_() for x in names)
            crops, p = torch.cat([student, local]).unflatten(0, (-1, n)), p.unflatten(0, (2, n))
            total = losses.cross_view(crops, p, student_temp)
            # its parts: each global view against the other one, and all local ones against both
            both = losses.cross_view(crops[:2], p, student_temp)
            rest = (total * (2 + 2 * n_local) - 2 * both).detach()
            found = {"total": total, "global_mean": both, "local_sum": rest}
            out |= arrays({f"{key}/loss_{name}_{kind}": value for name, value in found.items()})
            if key == "out":
                total.backward()
                out |= arrays({f"grad/student_global_{kind}": student.grad, f"grad/student_local_{kind}": local.grad})
                out |= arrays({f"out/teacher_probs_reversed_{kind}": p.flip(0).flatten(0, 1)})
    return out


def dinov2_ibot_patch_loss(case: Case) -> Arrays:
    hidden, student_temp = torch.from_numpy(case["in/masks"]), case["hp/student_temp"].item()
    assert torch.equal(hidden.flatten().nonzero().flatten(), torch.from_numpy(case["in/mask_indices"]))
    per_image = hidden.sum(1, keepdim=True).expand_as(hidden)[hidden]
    teacher = torch.from_numpy(case["in/teacher_patch"])
    out = arrays({"out/masks_weight": 1 / per_image, "out/center_after": moved(case, teacher[hidden])})
    out["out/n_masked_patches"] = np.array(len(per_image))
    for key, dtype in (("out", torch.float32), ("out64", torch.float64)):
        for kind, p in targets(case, teacher[hidden].to(dtype)).items():
            if (key, kind) == ("out64", "sk"):
                continue
            student = torch.from_numpy(case["in/student_patch"]).to(dtype, copy=True).requires_grad_()
            loss = losses.masked_patches(student[hidden], p, per_image, len(hidden), student_temp)
            out |= arrays({f"{key}/loss_{kind}": loss})
            if kind == "ce":
                out |= arrays({f"{key}/loss_dense_ce": loss})
            if key == "out":
                loss.backward()
                out |= arrays({f"grad/student_patch_{kind}": student.grad, f"out/teacher_probs_{kind}": p})
    return out


def dino_head(case: Case) -> Arrays:
    hp = {key.removeprefix("hp/"): value.item() for key, value in case.items() if key.startswith("hp/")}
    state = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in case.items() if k.startswith("state/")}
    norm = "use_bn" in hp
    widths = [hp[name] for name in ("in_dim", "hidden_dim", "bottleneck_dim", "out_dim")]
    head = DINOHead(*widths, layers=hp["nlayers"], norm=norm, learn_scale=not norm)
    head.load_state_dict(state)
    (x,) = tensors(case, "x")
    head.train()
    y = head(x)
    (y * torch.from_numpy(case["in/grad_output"])).sum().backward()
    last = head.last_layer
    out = {
        "grad/x": x.grad,
        "grad/last_layer_weight_v": last.weight_v.grad,
        "grad/mlp0_weight": head.mlp[0].weight.grad,
    }
    if norm:
        assert sum(p.requires_grad for p in head.parameters()) == hp["n_params_with_grad"]
        after = {f"out/after/{n}": b.clone() for n, b in head.named_buffers() if "running" in n}
        head.load_state_dict(state)
        return arrays({**out, **after, "out/y_train": y, "out/y_eval": head.eval()(x)})
    out |= {"out/y": y, "out/bottleneck": head.mlp(x), "grad/last_layer_weight_g": last.weight_g.grad}
    return arrays({**out, "out64/y": copy.deepcopy(head).double()(x.detach().double())})


def simsiam(case: Case) -> Arrays:
    p1, p2, z1, z2 = tensors(case, "p1", "p2", "z1", "z2")
    loss = (losses.simsiam(p1, z2) + losses.simsiam(p2, z1)) / 2
    loss.backward()
    assert z1.grad is z2.grad is None
    both = [losses.simsiam(p.detach().double(), z.detach().double()) for p, z in ((p1, z2), (p2, z1))]
    return arrays({"out/loss": loss, "grad/p1": p1.grad, "grad/p2": p2.grad, "out64/loss": sum(both) / 2})


def knn_dino(case: Case) -> Arrays:
    k, temperature, classes = (case[f"hp/{name}"].item() for name in ("k", "temperature", "num_classes"))
    names = ("train_features", "train_labels", "test_features", "test_labels")
    found = knn(*(torch.from_numpy(case[f"in/{name}"]) for name in names), k, temperature, classes)
    out = arrays({"out/votes": found.votes, "out/pred": found.predictions})
    return out | {"out/top1_percent": np.float64(100 * found.top1), "out/top5_percent": np.float64(100 * found.top5)}


def lars(case: Case) -> Arrays:
    """The official rule, and lightly's, which is our "larc" with another name."""
    out: Arrays = {}
    runs = [("official", "lars", torch.float32, "out"), ("official", "lars", torch.float64, "out64")]
    if case["hp/weight_decay"] > 0:
        runs.append(("lightly", "larc", torch.float32, "out"))
    for label, rule, dtype, prefix in runs:
        params = {
            key.removeprefix("in/param/"): torch.from_numpy(case[key]).to(dtype, copy=True).requires_grad_()
            for key in case
            if key.startswith("in/param/")
        }
        groups = [
            {"params": [p], "adapt": p.ndim > 1, "weight_decay": case["hp/weight_decay"].item() * (p.ndim > 1)}
            for p in params.values()
        ]
        momentum, trust = case["hp/momentum"].item(), case["hp/trust_coefficient"].item()
        optimizer = LARS(groups, rule, lr=0.0, momentum=momentum, nesterov=False, trust=trust)
        for step, lr in enumerate(case["hp/lr"].tolist()):
            for name, p in params.items():
                p.grad = torch.from_numpy(case[f"in/grad_step{step}/{name}"]).to(dtype)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            if step == 2 or (label, prefix) == ("official", "out"):
                out |= arrays({f"{prefix}/{label}/step{step + 1}/{n}": p.clone() for n, p in params.items()})
    return out


def schedules(case: Case, name: str) -> Arrays:
    hp = {key.removeprefix("hp/"): value.item() for key, value in case.items() if key.startswith("hp/")}
    return {key: np.array(values) for key, values in SCHEDULES[name](hp).items()}


def values(schedule: Schedule, steps: int, steps_per_epoch: int, past: int = 0) -> list[float]:
    return [schedule(Progress(i, steps, steps_per_epoch)) for i in range(steps + past)]


def dino_schedule(hp: dict) -> dict[str, list[float]]:
    schedule = Schedule(
        hp["base_value"], hp["final_value"], "cosine", hp["warmup_epochs"], hp["start_warmup_value"], grid="dino"
    )
    return {"out/values": values(schedule, hp["epochs"] * hp["niter_per_ep"], hp["niter_per_ep"])}


def dinov2_schedule(hp: dict) -> dict[str, list[float]]:
    schedule = Schedule(
        hp["base_value"],
        hp["final_value"],
        "cosine",
        hp["warmup_iters"],
        hp["start_warmup_value"],
        hp["freeze_iters"],
        grid="dino",
    )
    return {"out/values_with_3_past_end": values(schedule, hp["total_iters"], 1, past=3)}


def scaled_schedule(hp: dict, lr: float) -> list[float]:
    """Through `Optim`: the official scripts scale by batch / 256 and end at a share of the peak."""
    optim = Optim("lars", lr, warmup_epochs=hp["warmup_epochs"], final_factor=hp["end_factor"], grid="open")
    per_epoch = hp["steps_per_epoch"]
    return values(optim.schedule(lr * optim.factor(hp["batch_size"])), hp["epochs"] * per_epoch, per_epoch)


def mocov3_lr(hp: dict) -> dict[str, list[float]]:
    schedule = Schedule(hp["lr"], 0.0, "cosine", hp["warmup_epochs"], grid="open")
    return {"out/values": values(schedule, hp["epochs"] * hp["iters_per_epoch"], hp["iters_per_epoch"])}


def mocov3_momentum(hp: dict) -> dict[str, list[float]]:
    schedule = Schedule(hp["moco_m"], 1.0, "cosine", grid="open")
    return {"out/values": values(schedule, hp["epochs"] * hp["iters_per_epoch"], hp["iters_per_epoch"])}


def simsiam_lr(hp: dict) -> dict[str, list[float]]:
    """One value per epoch, constant within it: asked for at every step of three-step epochs."""
    encoder = Schedule(hp["init_lr"], 0.0, "cosine", every="epoch", grid="open")
    predictor = Schedule(hp["init_lr"])
    steps = values(encoder, 3 * hp["epochs"], 3)
    assert all(steps[i] == steps[i - i % 3] for i in range(len(steps)))
    return {"out/encoder": steps[::3], "out/predictor_fixed": values(predictor, hp["epochs"], 1)}


def lightly_cosine(hp: dict) -> dict[str, list[float]]:
    schedule = Schedule(
        hp["start_value"],
        hp["end_value"],
        "cosine",
        hp.get("warmup_steps", 0),
        hp.get("warmup_start_value", 0.0),
        grid="closed",
    )
    return {"out/values": values(schedule, hp["max_steps"], 1)}


SCHEDULES: dict[str, Callable[[dict], dict[str, list[float]]]] = {
    "dino_lr": dino_schedule,
    "dino_wd": dino_schedule,
    "dino_momentum": dino_schedule,
    "dinov2_lr": dinov2_schedule,
    "dinov2_last_layer_lr": dinov2_schedule,
    "dinov2_teacher_temp": dinov2_schedule,
    "mocov3_lr": mocov3_lr,
    "mocov3_momentum": mocov3_momentum,
    "vicreg_lr": lambda hp: {"out/values": scaled_schedule(hp, hp["base_lr"])},
    "barlow_lr": lambda hp: {
        "out/weights": scaled_schedule(hp, hp["learning_rate_weights"]),
        "out/biases": scaled_schedule(hp, hp["learning_rate_biases"]),
    },
    "simsiam_lr": simsiam_lr,
    "lightly_cosine_warmup": lightly_cosine,
    "lightly_cosine": lightly_cosine,
}

CHECKS: dict[str, Callable[[Case, str], Arrays]] = {
    "simclr_ntxent": lambda case, _: simclr_ntxent(case),
    "knn_dino": lambda case, _: knn_dino(case),
    "lars": lambda case, _: lars(case),
    "schedules": schedules,
    "supcon": lambda case, _: supcon(case),
    "moco_v2": lambda case, _: moco_v2(case),
    "moco_v3": lambda case, _: moco_v3(case),
    "byol": lambda case, _: byol(case),
    "simsiam": lambda case, _: simsiam(case),
    "barlow_twins": lambda case, _: barlow_twins(case),
    "vicreg": lambda case, _: vicreg(case),
    "lejepa_sigreg": lambda case, _: lejepa_sigreg(case),
    "swav": lambda case, _: swav(case),
    "deepcluster_v2": lambda case, _: deepcluster_v2(case),
    "ibot_loss": lambda case, _: ibot_loss(case),
    "dinov2_dino_loss": lambda case, _: dinov2_dino_loss(case),
    "dinov2_ibot_patch_loss": lambda case, _: dinov2_ibot_patch_loss(case),
    "koleo": lambda case, _: koleo(case),
    "dino_loss": lambda case, _: dino_loss(case),
    "dino_head": lambda case, _: dino_head(case),
    "dino_head_bn": lambda case, _: dino_head(case),
}
"""By file: computes from a case's in/ and hp/ every out/, grad/ and out64/ array that it stores."""


def arrays(tensors: Mapping[str, torch.Tensor | None]) -> Arrays:
    return {key: t.detach().numpy() for key, t in tensors.items() if t is not None}


def cases() -> list[tuple[str, str]]:
    return [(stem, name) for stem in CHECKS if (REFERENCE / f"{stem}.npz").is_file() for name in read(stem)]


def test_every_file_is_known() -> None:
    found = {path.stem for path in REFERENCE.glob("*.npz")}
    known = [*CHECKS, *PENDING, *ELSEWHERE]
    assert len(known) == len(set(known)), "a file is in two of CHECKS, PENDING and ELSEWHERE"
    assert found == set(known), f"unknown: {found - set(known)}, missing: {set(known) - found}"


@pytest.mark.parametrize(("stem", "test"), ELSEWHERE.items())
def test_file_is_checked_elsewhere(stem: str, test: str) -> None:
    """A test reads it: the name is given to `read` or `official`, or to a test that gives what it gets to them."""
    tree = ast.parse((Path(__file__).parent / test).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [node for node in calls if ast.unparse(node.func) in ("read", "official", "pytest.mark.parametrize")]
    assert stem in {part.value for node in named for part in ast.walk(node) if isinstance(part, ast.Constant)}


@pytest.mark.parametrize(("stem", "name"), cases())
def test_case(stem: str, name: str) -> None:
    case = read(stem)[name]
    compare(stem, CHECKS[stem](case, name), case)


def compare(stem: str, found: Arrays, case: Case) -> None:
    expected = {key: value for key, value in case.items() if key.split("/")[0] in TOLERANCE}
    assert set(found) == set(expected), f"missing: {set(expected) - set(found)}, surplus: {set(found) - set(expected)}"
    for key, wanted in expected.items():
        assert found[key].shape == wanted.shape, key
        if key in EXACT.get(stem, ()) or wanted.dtype.kind in "biu":
            np.testing.assert_allclose(found[key], wanted, rtol=1e-12, atol=0, err_msg=key)
            continue
        tolerance = TOLERANCE_OF.get((stem, key)) or TOLERANCE_OF.get((stem, "")) or TOLERANCE[key.split("/")[0]]
        worst, scale = np.abs(found[key] - wanted).max(), np.abs(wanted).max()
        assert worst <= tolerance * scale, f"{key} is off by {worst / scale:.1e} of its maximum, above {tolerance:.0e}"


@pytest.mark.parametrize("stem", CHECKS)
def test_comparison_can_fail(stem: str) -> None:
    case = next(iter(read(stem).values()))
    expected = {key: value for key, value in case.items() if key.split("/")[0] in TOLERANCE}
    compare(stem, expected, case)
    for key, value in expected.items():
        with pytest.raises(AssertionError):
            compare(stem, expected | {key: value + 2e-5 * np.abs(value).max().astype(np.float64)}, case)
        with pytest.raises(AssertionError):
            compare(stem, {k: v for k, v in expected.items() if k != key}, case)
