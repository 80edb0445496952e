"""The kernel benchmark's cases do what they say, and its summary judges every promised floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from benchmarks.kernel_cases import Case, own_mask_cases, shared_mask_cases
from benchmarks.kernel_more_cases import cats_cases, half_cases, input_cases
from benchmarks.kernel_timing import DenseBaseline, measure
from benchmarks.kernels import FLOORS, summary, table
from service.commands.tables import table_console

Cases = Callable[[tuple[int, int], tuple[int, ...], tuple[float, ...]], Iterator[Case]]


@pytest.mark.parametrize("cases", [own_mask_cases, shared_mask_cases, half_cases, cats_cases, input_cases])
def test_a_case_has_the_density_it_says_and_its_control_skips_nothing(cases: Cases) -> None:
    with torch.inference_mode():
        for case in cases((24, 40), (1, 8), (0.3, 1.0)):
            share = case.active_share * (1.5 if case.mask == "cats" else 1.0)
            assert share == pytest.approx(case.density, abs=0.03)
            assert case.ours() in ("native", "numba", "gather", "dense")
            if case.density == 1.0:
                tolerance = 0.05 if case.mask == "half" else 1e-4
                torch.testing.assert_close(case.control(), case.dense(*case.inputs), rtol=tolerance, atol=tolerance)


def test_a_record_names_what_was_promised_and_the_table_is_not_cut_off() -> None:
    with torch.inference_mode():
        record = measure(next(own_mask_cases((16, 24), (1,), (0.5,))), DenseBaseline(False, Console()), 0.0, 3)
    wanted = {"shape", "rows", "mask", "density", "dense_ms", "ours_ms", "speedup", "share_of_ideal", "kernel"}
    assert wanted <= set(asdict(record))
    console = table_console(file=StringIO())
    with console.capture() as capture:
        console.print(table([replace(record, shape="1024x4096", kernel="reference", dense="compile")]))
    assert "1024x4096" in capture.get()
    assert "compile" in capture.get()


def test_the_summary_says_pass_or_miss_for_every_floor_and_regime() -> None:
    with torch.inference_mode():
        one = measure(next(own_mask_cases((16, 24), (1,), (0.5,))), DenseBaseline(False, Console()), 0.0, 3)
    good = [
        replace(one, mask=mask, rows=rows, density=density, share_of_ideal=floor, ours_ms=1.0, dense_ms=1.0)
        for (mask, rows, density), floor in FLOORS.items()
    ]
    lines = summary(good)
    assert len(lines) == len(FLOORS) + len({record.mask for record in good}) + 1
    assert not any("MISS" in line for line in lines)
    bad = [replace(record, share_of_ideal=record.share_of_ideal - 0.01, ours_ms=1.06) for record in good]
    assert sum("MISS" in line for line in summary(bad)) == len(lines) - 1
