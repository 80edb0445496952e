"""`swan bench models`: what it records, what it judges, and that plain forms of a network give its answers."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.models_contenders import Entry, contenders
from benchmarks.models_exam import ImageExam
from benchmarks.models_measure import Contender, Result, examine, gated, plain, time_all
from benchmarks.models_records import Record, records_of
from benchmarks.models_targets import verdicts
from models.gated import GatedServable
from models.recipes.packaging import write_rival
from models.registry import find_package, load_package, shipped_repository
from models.swan_mlp import DenseMLP, SwanMLPConfig
from service.cli import app

KEYS = "model variant budget batch metric quality n activity_mean activity_p99 macs macs_dense ms amdahl_share"


def mlp() -> GatedServable:
    model = load_package(find_package(shipped_repository(), "fashion-mlp"))
    assert isinstance(model, GatedServable)
    return model


def result(
    variant: str, budget: float, accuracy: float, macs: float, ms: float = 1.0, model: str = "fashion-mlp"
) -> Result:
    contender = Contender(model, variant, variant, budget, lambda inputs: (torch.zeros(0), ()))
    return Result(contender, {"accuracy": accuracy}, 100, macs, 0.0, np.full(4, budget), ms={1: ms})


def verdict(results: list[Result], words: str) -> float | None:
    found = [v for v in verdicts(results) if words in v.target]
    assert len(found) == 1, [v.target for v in verdicts(results)]
    return found[0].margin


@pytest.mark.slow
def test_the_command_writes_records_plots_and_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "models.json"
    arguments = ["--quick", "--model", "fashion-mlp", "--json", str(out), "--plot", str(tmp_path)]
    done = CliRunner().invoke(app, ["bench", "models", *arguments, "--rivals", str(tmp_path)])
    assert done.exit_code == 0, done.output
    records = json.loads(out.read_text())
    assert [field.name for field in fields(Record)] == KEYS.split() == list(records[0])
    assert {r["variant"] for r in records} == {"dense", "gated", "compact"}
    assert {r["batch"] for r in records} == {1, 16} and all(r["ms"] > 0 for r in records)
    assert (tmp_path / "fashion-mlp.png").read_bytes().startswith(b"\x89PNG")
    assert "models.recipes.rivals fashion-mlp" in done.output.replace("\n", "")


def test_unknown_models_are_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "models", "--model", "nobody"])
    assert done.exit_code == 2 and "nobody" in done.output


def test_gated_activity_quality_and_macs_are_those_of_the_reports() -> None:
    model, exam = mlp(), ImageExam(200)
    low, high = (examine(gated("m", "gated", "gated", b, model.runtime), exam) for b in (0.1, 1.0))
    outputs, reports = model.runtime.infer(exam.batches[0], [0.1] * 200)
    assert low.macs == pytest.approx(np.mean([report.macs for report in reports]))
    assert low.quality == {"accuracy": pytest.approx(float((outputs.argmax(1) == exam.labels).float().mean()))}
    assert low.macs < high.macs / 3 and high.activities.tolist() == [1.0] * 200
    assert low.hard is not None and low.easy is not None


def test_macs_of_plain_networks_are_counted() -> None:
    network = DenseMLP(SwanMLPConfig(hidden=32)).eval()
    assert examine(plain("m", "static", "static", network), ImageExam(50)).macs == 784 * 32 + 32 * 32 + 32 * 10


def test_rivals_on_disk_take_part(tmp_path: Path) -> None:
    model = mlp()
    write_rival(tmp_path / "dense.safetensors", DenseMLP(SwanMLPConfig(hidden=64)))
    write_rival(tmp_path / "static-16.safetensors", DenseMLP(SwanMLPConfig(hidden=16)))
    said: list[str] = []
    table = model.table
    assert table is not None
    found = list(contenders(Entry("fashion-mlp", model, table, tmp_path, True, said.append), ImageExam(10)))
    assert [c.label for c in found if c.plain is not None] == ["dense", "static-16", "compact", "compact"]
    assert found[0].variant == "dense"
    assert len(said) == 2 and "single-budget" in said[0] and "training-free" in said[1]


def test_times_are_ratios_to_the_first_network() -> None:
    exam = ImageExam(300)
    networks = [DenseMLP(SwanMLPConfig(hidden=hidden)).eval() for hidden in (1024, 8)]
    results = [examine(plain("m", "static", "static", network), exam) for network in networks]
    time_all(results, exam, 16, rounds=3, tick=lambda: None)
    assert results[1].ms[16] < results[0].ms[16]  # 130 times fewer MACs
    record = records_of(results)[1]
    speed_up = results[0].ms[16] / results[1].ms[16]
    assert record.amdahl_share == pytest.approx(speed_up / (results[0].macs / results[1].macs))


def test_targets_are_judged_by_their_margin() -> None:
    results = [
        result("dense", 1.0, 0.900, 1000.0, ms=1.0),
        result("gated", 0.05, 0.880, 60.0, ms=0.1),
        result("gated", 0.1, 0.895, 100.0, ms=0.125),
        result("gated", 1.0, 0.905, 1020.0, ms=1.1),
        result("static", 1.0, 0.893, 80.0),
        result("single-budget", 0.1, 0.8945, 100.0),
    ]
    assert verdict(results, "accuracy at budget 1, %") == pytest.approx(0.6)
    assert verdict(results, "lost at 10x fewer MACs") == pytest.approx(0.2)
    assert verdict(results, "times faster") == pytest.approx(3.0)
    # at 80 MACs the gated curve stands at .8875, half a point under the static network: .35 more than allowed
    assert verdict(results, "gated minus static") == pytest.approx(-0.35)
    assert verdict(results, "single-budget") == pytest.approx(0.35)
    # it never falls: the smallest rise is one point, and the standard error of .905 on 100 samples is 2.93
    assert verdict(results, "fall of quality") == pytest.approx(1.0 + 2.93, abs=0.01)


def test_what_cannot_be_judged_is_not_passed() -> None:
    results = [result("dense", 1.0, 0.9, 1000.0), result("gated", 1.0, 0.9, 1000.0)]
    assert verdict(results, "gated minus static") is None
    assert verdict(results, "lost at 10x fewer MACs") is None
    assert not any(v.met for v in verdicts(results) if v.margin is None)
