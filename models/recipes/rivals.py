"""What `swan bench models` compares with: small static networks, single-budget networks, gates without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

from models.gated_resnet import GatedResNet, GatedResNetConfig, folded
from models.gating import DenseSource, GateSettings, gate_package
from models.images import load_dense
from models.package import read_package
from models.recipes import fashion_mlp, fashion_resnet
from models.recipes.fashion_data import Splits, calibration_table, manifest
from models.recipes.fashion_training import GatedTraining, train_dense, train_gated
from models.recipes.lessons import Lessons, banked_lessons, fresh_lessons
from models.recipes.packaging import read_network, tensors_of, write_package, write_rival
from models.recipes.static_encoder import DEFAULT_SIZES as UNITS
from models.recipes.static_encoder import RivalTraining, encoder_rivals
from models.recipes.training import TrainConfig
from models.registry import find_package, shipped_repository
from models.swan_mlp import DenseMLP, SwanMLP, SwanMLPConfig, adopt_
from swan_runtime.fit import fit_gates_

MODELS = ("fashion-mlp", "fashion-resnet", "minilm-embedder")
MLP_STATIC = TrainConfig(epochs=20, batch_rows=256, max_lr=2e-3, weight_decay=0.02)
MLP_UNITS = (128, 192, 320)  # 6, 10 and 19 % of the dense network's MACs
RESNET_SHARES = (20, 30, 40)  # per cent of the dense network's MACs: widths by the root of it
SINGLE = {"fashion-mlp": (0.1, 0.2), "fashion-resnet": (0.2, 0.4), "minilm-embedder": (0.3, 0.5)}
GATED_RANK = {"fashion-mlp": 16, "fashion-resnet": 16}


@dataclass(frozen=True)
class Networks:
    """How one family's networks are made. builder: of the dense one, in models.dense; gated: from a dense one."""

    builder: str
    dense: Callable[[], nn.Module]
    static: Callable[[int], nn.Module]
    gated: Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Training:
    """How they learn. professor: a package that teaches, or "": the dense network does."""

    dense: TrainConfig
    static: TrainConfig
    gated: GatedTraining
    max_shift: int
    professor: str = ""


@dataclass(frozen=True)
class Family:
    """One Fashion-MNIST model. sizes: of its static networks."""

    name: str
    networks: Networks
    training: Training
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Where one command reads and writes."""

    family: Family
    splits: Splits
    out: Path
    work: Path
    quick: bool
    seed: int

    def sized(self, config: TrainConfig) -> TrainConfig:
        return replace(config, seed=self.seed, epochs=1 if self.quick else config.epochs)

    def checkpoint(self, stage: str) -> Path | None:
        return None if self.quick else self.work / "rivals" / self.family.name / f"{self.seed}-{stage}.safetensors"


def main(
    model: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(MODELS)}.")],
    sizes: Annotated[
        list[int] | None,
        typer.Option(help="Static networks: hidden units (fashion-mlp), per cent of the MACs (fashion-resnet), "
                     "units a layer (minilm-embedder)."),
    ] = None,
    single_budget: Annotated[list[float] | None, typer.Option(help="Budgets to train one network each for.")] = None,
    quick: Annotated[bool, typer.Option(help="Few data, one epoch: under a minute, for tests.")] = False,
    out: Annotated[Path, typer.Option(help="Folder that `swan bench models --rivals` reads.")] = Path("out/rivals"),
    data: Annotated[Path | None, typer.Option(help="Folder with the training files, instead of apt.")] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints; a broken-off run goes on from here.")] = Path("out/recipes"),
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
) -> None:  # fmt: skip
    """Train or compute the rivals of one model. A dense teacher that lies in OUT/NAME/ is used, else trained."""
    console = Console()
    if model not in MODELS:
        raise typer.BadParameter(f"expected one of {', '.join(MODELS)}, got {model!r}")
    if model == "minilm-embedder":
        how = RivalTraining(quick, data, work, seed)
        encoder_rivals(out / model, tuple(sizes or UNITS), tuple(single_budget or SINGLE[model]), how, console)
        return
    splits = Splits.load(data, 256 if quick else None, console)
    family = FAMILIES[model]()
    run = Run(family, splits, out / model, work, quick, seed)
    teacher = _teacher(run, console)
    console.print(f"wrote {_training_free(run)}")
    lessons = _lessons(run, teacher)
    for size in sizes or family.sizes:
        torch.manual_seed(seed)
        network = family.networks.static(size)
        _train_dense(run, f"static-{size}", network, family.training.static, lessons)
        write_rival(run.out / f"static-{size}.safetensors", _ready(network))
    for budget in single_budget or SINGLE[model]:
        console.print(f"wrote {_single_budget(run, teacher, lessons, budget)}")


def _teacher(run: Run, console: Console) -> nn.Module:
    path = run.out / "dense.safetensors"
    if not path.exists():
        torch.manual_seed(run.seed)
        network = run.family.networks.dense()
        how = run.family.training
        _train_dense(run, "teacher", network, how.dense, fresh_lessons(run.splits, how.max_shift))
        write_rival(path, _ready(network))
    console.print(f"teacher: {path}")
    return read_network(path)


def _train_dense(run: Run, stage: str, network: nn.Module, config: TrainConfig, lessons: Lessons) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".gate." not in name)
    distil = run.family.training.gated.distil
    train_dense(stage, network, run.splits, run.sized(config), run.checkpoint(stage), lessons, distil)


def _lessons(run: Run, teacher: nn.Module) -> Lessons:
    """What the package itself learned from."""
    how = run.family.training
    if not how.professor:
        return fresh_lessons(run.splits, how.max_shift, teacher)
    professor = load_dense(read_package(find_package(shipped_repository(), how.professor))).network
    variants, kept = 2 if run.quick else fashion_mlp.VARIANTS, run.checkpoint("lessons")
    return banked_lessons(run.splits, how.max_shift, professor, variants, run.seed, kept)


def _single_budget(run: Run, teacher: nn.Module, lessons: Lessons, budget: float) -> Path:
    """Trained like the package, with every smaller budget of its schedule replaced by this one."""
    gated = run.family.training.gated
    network = run.family.networks.gated(teacher)
    fit_gates_(network, [(run.splits.scaled(64 if run.quick else 1024),)])
    how = replace(gated, train=run.sized(gated.train), low=budget, high=budget, low_from=0.0)
    name = f"single-budget-{budget:g}"
    train_gated(name, network, run.splits, how, run.checkpoint(name), lessons)
    network = _ready(network)
    held_out = run.splits.calibration.take(slice(0, 200 if run.quick else None))
    label = f"single-budget-{budget:g}"
    table = calibration_table(label, network, held_out, (budget,))
    package = "swan_mlp" if isinstance(network, SwanMLP) else "gated_resnet"
    config: Any = network.config
    described = manifest(label, package, asdict(config), f"trained for budget {budget:g} only", deadline_s=0.1)
    return write_package(run.out / "packages", "1", described, tensors_of(network), table)


def _training_free(run: Run) -> Path:
    """What `swan gate` makes of the dense teacher, from half of the held-out images."""
    path = run.out / "dense.safetensors"
    images = run.splits.calibration.take(slice(0, 128 if run.quick else None))
    config: Any = read_network(path).config
    source = DenseSource(f"models.dense:{run.family.networks.builder}", path, asdict(config))
    settings = GateSettings(GATED_RANK[run.family.name], budgets=(0.5,) if run.quick else GateSettings().budgets)
    columns: dict[str, Any] = {"INPUT": images.scaled(), "labels": images.labels}
    return gate_package("training-free", source, columns, settings, run.out / "packages")[0]


def _ready(network: nn.Module) -> nn.Module:
    """As it is packaged: norms behind convolutions folded."""
    return folded(network) if isinstance(network, GatedResNet) and not network.config.folded else network.eval()


def _mlp() -> Family:
    def gated(teacher: nn.Module) -> nn.Module:
        assert isinstance(teacher, DenseMLP)
        return adopt_(SwanMLP(teacher.config), teacher)

    networks = Networks(
        builder="dense_mlp",
        dense=lambda: DenseMLP(SwanMLPConfig()),
        static=lambda hidden: DenseMLP(SwanMLPConfig(hidden=hidden), dropout=0.0),
        gated=gated,
    )
    recipe = fashion_mlp
    training = Training(recipe.DENSE, MLP_STATIC, recipe.GATED, recipe.MAX_SHIFT, professor=recipe.TEACHER)
    return Family(recipe.NAME, networks, training, MLP_UNITS)


def _resnet() -> Family:
    config = GatedResNetConfig()

    def static(share: int) -> nn.Module:
        widths = tuple(max(4, 4 * round(width * (share / 100) ** 0.5 / 4)) for width in config.widths)
        return _channels_last(GatedResNet(replace(config, widths=widths)))

    def gated(teacher: nn.Module) -> nn.Module:
        assert isinstance(teacher, GatedResNet)
        network = GatedResNet(teacher.config)
        network.load_state_dict(teacher.state_dict())
        return _channels_last(network)

    networks = Networks("dense_resnet", lambda: _channels_last(GatedResNet(config)), static, gated)
    recipe = fashion_resnet
    training = Training(recipe.DENSE, recipe.DENSE, recipe.GATED, recipe.MAX_SHIFT)
    return Family(recipe.NAME, networks, training, RESNET_SHARES)


def _channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stub


FAMILIES: dict[str, Callable[[], Family]] = {"fashion-mlp": _mlp, "fashion-resnet": _resnet}


if __name__ == "__main__":
    typer.run(main)
