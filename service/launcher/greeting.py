"""What is printed when the service is ready: the models with what they cost, and two lines to try as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
from rich.console import Console
from rich.table import Table

from models.interface import ModelSpec, TensorSpec
from service.inference.package_source import PackageSource
from service.launcher.plan import Plan
from swan_runtime.budget import CalibrationTable

FREE_AXIS = 8  # length shown for an axis that may have any
NUMPY_NAMES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool_"}


@dataclass(frozen=True, slots=True)
class Offer:
    """One model version as it is offered. table: None for a model without gates."""

    spec: ModelSpec
    table: CalibrationTable | None


def greet(plan: Plan, console: Console) -> None:
    """Say what is served and how to try it."""
    packages = PackageSource(plan.settings.models_dir, plan.settings.models)
    offers = [Offer(package.manifest.spec(package.version, ""), package.table()) for package in packages.packages()]
    console.print(model_table(offers, lambda spec: _is_ready(plan, spec)))
    shown = easiest([offer for offer in offers if _is_ready(plan, offer.spec)])
    console.print(f"HTTP {plan.url}   gRPC {plan.grpc_address}   metrics {plan.url}/metrics")
    if shown is not None:
        console.print(f"Try:\n  {curl_line(shown.spec, plan.url)}", markup=False)
        console.print(f"  {python_line(shown.spec, plan.url.removeprefix('http://'))}", markup=False)
    console.print("Ctrl-C drains and stops.")


def _is_ready(plan: Plan, spec: ModelSpec) -> bool:
    path = f"/v2/models/{spec.name}/versions/{spec.version}/ready"
    return httpx.get(f"{plan.url}{path}", trust_env=False, timeout=10.0).status_code == 200


def model_table(offers: Sequence[Offer], is_ready: Callable[[ModelSpec], bool]) -> Table:
    """One row a model: its budgets, and MACs and quality at both ends."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "version", "budgets", "MACs a request", "quality", "deadline", "state"):
        shown.add_column(name)
    for offer in offers:
        spec, table = offer.spec, offer.table
        state = "[green]ready[/]" if is_ready(spec) else "[red]not loaded[/]"
        budgets, macs, quality = _costs(table)
        deadline = f"{spec.default_deadline_s * 1000:g} ms"
        shown.add_row(spec.name, spec.version, budgets, macs, quality, deadline, state)
    return shown


def _costs(table: CalibrationTable | None) -> tuple[str, str, str]:
    if table is None:
        return "1", "", ""
    low, high = table.points[0], table.points[-1]
    return (
        f"{low.budget:g} to {high.budget:g}",
        f"{_short(low.macs_mean)} to {_short(high.macs_mean)} (dense {_short(table.macs_dense)})",
        f"{table.metric} {low.quality:.4g} to {high.quality:.4g}",
    )


def _short(count: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f}"


def easiest(offers: Sequence[Offer]) -> Offer | None:
    """The model that is shown first: it takes text, or else the fewest numbers."""
    return min(offers, key=lambda offer: _input_size(offer.spec), default=None)


def _input_size(spec: ModelSpec) -> int:
    return sum(0 if tensor.datatype == "BYTES" else _count(_shape(tensor)) for tensor in spec.inputs)


def curl_line(spec: ModelSpec, url: str) -> str:
    """A line for a shell; the zeros of a long input are made by `yes`, so that the line stays short."""
    inputs = ", ".join(_json_input(tensor) for tensor in spec.inputs)
    first = spec.outputs[0].name
    outputs = f', "outputs": [{{"name": "{first}", "parameters": {{"classification": 3}}}}]' if spec.labels else ""
    body = f'{{"inputs": [{inputs}]{outputs}}}'
    quoted = '"' + body.replace('"', '\\"') + '"'
    return f"curl -s {shlex.quote(f'{url}/v2/models/{spec.name}/infer')} -d {quoted}"


def _json_input(tensor: TensorSpec) -> str:
    shape = _shape(tensor)
    value = {"BYTES": '"a small boat"', "BOOL": "false"}.get(tensor.datatype, "0")
    count = _count(shape)
    data = value if count == 1 else f"$(yes '{value}' | head -{count} | paste -sd,)"
    return f'{{"name": "{tensor.name}", "datatype": "{tensor.datatype}", "shape": {list(shape)}, "data": [{data}]}}'


def python_line(spec: ModelSpec, address: str) -> str:
    """A line for a shell that runs NVIDIA's own client."""
    code = ["import numpy as np, tritonclient.http as http", f"client = http.InferenceServerClient('{address}')"]
    names = []
    for number, tensor in enumerate(spec.inputs):
        name, shape = f"x{number}", list(_shape(tensor))
        names.append(name)
        array = f"np.full({shape}, b'a small boat', object)" if tensor.datatype == "BYTES" else _zeros(tensor, shape)
        code.append(f"{name} = http.InferInput('{tensor.name}', {shape}, '{tensor.datatype}')")
        code.append(f"{name}.set_data_from_numpy({array})")
    answer = f"client.infer('{spec.name}', [{', '.join(names)}])"
    code.append(f"print({answer}.as_numpy('{spec.outputs[0].name}'))")
    return f'python -c "{"; ".join(code)}"'


def _zeros(tensor: TensorSpec, shape: list[int]) -> str:
    return f"np.zeros({shape}, np.{NUMPY_NAMES.get(tensor.datatype, tensor.datatype.lower())})"


def _shape(tensor: TensorSpec) -> tuple[int, ...]:
    return (1, *(FREE_AXIS if length == -1 else length for length in tensor.shape))


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
