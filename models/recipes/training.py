"""The training loop of every recipe: AdamW, one cycle, checkpoints from which an interrupted run goes on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

# loss_fn(rows of this batch, share of the training that is done) -> (loss to minimise, numbers to show)
LossFunction = Callable[[Tensor, float], tuple[Tensor, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """epochs over `num_rows` rows in batches of `batch_rows`; max_lr is the peak of the one-cycle schedule.

    gate_lr: the gates' learning rate as a multiple of the others'.
    """

    epochs: int
    batch_rows: int
    max_lr: float
    weight_decay: float = 0.02
    seed: int = 0
    warm_up: float = 0.2
    max_grad_norm: float = 5.0
    gate_lr: float = 1.0


def one_cycle(done: float, warm_up: float) -> float:
    """Share of the peak learning rate after a share `done` of the steps: cosine up from 1/25, cosine down to 1/1000."""
    if done < warm_up:
        low, position = 1 / 25, done / warm_up
        return low + (1 - low) * (1 - math.cos(math.pi * position)) / 2
    position = (done - warm_up) / (1 - warm_up)
    return 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * position)) / 2


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, object]]:
    """Weight decay on matrices and kernels; none on vectors, norms and gates, which have their own rate."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gates = [p for name, p in named if ".gate." in name]
    decayed = [p for name, p in named if ".gate." not in name and p.ndim > 1]
    free = [p for name, p in named if ".gate." not in name and p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": config.weight_decay, "scale": 1.0},
        {"params": free, "weight_decay": 0.0, "scale": 1.0},
        {"params": gates, "weight_decay": 0.0, "scale": config.gate_lr},
    ]


def train(
    name: str,
    model: nn.Module,
    num_rows: int,
    loss_fn: LossFunction,
    config: TrainConfig,
    checkpoint: Path | None = None,
    each_epoch: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Train `model` in place; goes on from `checkpoint` if it holds one. each_epoch's numbers are shown and logged."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.max_lr)
    first = _resume(checkpoint, model, optimizer) if checkpoint else 0
    steps = num_rows // config.batch_rows
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[shown]}")) as progress:
        task = progress.add_task(name, total=config.epochs * steps, completed=first * steps, shown="")
        for epoch in range(first, config.epochs):
            model.train()
            torch.manual_seed(config.seed * 10_007 + epoch)  # so that a resumed run draws what an unbroken one drew
            for step, rows in enumerate(_batches(num_rows, config.batch_rows)):
                done = (epoch * steps + step) / (config.epochs * steps)
                shown = _step(model, optimizer, loss_fn, rows, done, config)
                progress.update(task, advance=1, shown=_format(shown))
            if checkpoint:
                _save(checkpoint, model, optimizer, epoch + 1)
            model.eval()
            progress.console.print(f"{name} epoch {epoch + 1}/{config.epochs} {_format({**shown, **each_epoch()})}")
    model.eval()


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFunction,
    rows: Tensor,
    done: float,
    config: TrainConfig,
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = config.max_lr * group["scale"] * one_cycle(done, config.warm_up)
    optimizer.zero_grad(set_to_none=True)
    loss, shown = loss_fn(rows, done)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return {"loss": loss.item(), **shown}


def _batches(num_rows: int, batch_rows: int) -> Iterator[Tensor]:
    """Whole batches of a new random order; what is left over comes up in other epochs."""
    order = torch.randperm(num_rows)
    for start in range(0, num_rows - batch_rows + 1, batch_rows):
        yield order[start : start + batch_rows]


def _format(numbers: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epochs_done: int) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, scratch, {"epochs": str(epochs_done)})
    scratch.replace(path)  # NOTE: atomic, so that a kill leaves the old checkpoint or the new one


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what `_save` wrote; returns the number of epochs it holds, 0 if there is nothing."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        epochs = int(file.metadata()["epochs"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".", 2)
            states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return epochs
