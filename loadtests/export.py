"""Real requests as a JSON file for other load generators: `python -m loadtests.export --out requests.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from loadtests.payloads import InputSpec, Sample, http_json, input_spec
from loadtests.samples import samples_for
from loadtests.target import Target


def exported(model: str, spec: InputSpec, samples: Sequence[Sample], deadline_s: float) -> dict[str, Any]:
    """{"path": route, "deadline_ms": n, "requests": [{"body": inference request, "label": class or null}, ...]}."""
    parameters = {"timeout": round(deadline_s * 1e6)}
    requests = [
        {"body": orjson.loads(http_json(sample, spec, parameters)), "label": sample.label} for sample in samples
    ]
    return {"path": f"/v2/models/{model}/infer", "deadline_ms": deadline_s * 1e3, "requests": requests}


def main(
    out: Annotated[Path, typer.Option(help="File to write.")],
    url: Annotated[str, typer.Option(help="A running service, asked what the model takes.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="Model to send to.")] = "fashion-resnet",
    count: Annotated[int, typer.Option(help="How many different requests.", min=1, max=10_000)] = 200,
    deadline_ms: Annotated[float, typer.Option(help="Deadline that every request asks for.", min=1)] = 100.0,
) -> None:
    """Write real inputs with their labels as inference requests, for loadtests/k6/infer.js and loadtests/locust."""
    spec = input_spec(Target(url.rstrip("/"), "").get(f"/v2/models/{model}"))
    document = exported(model, spec, samples_for(spec, count), deadline_ms / 1e3)
    out.write_bytes(orjson.dumps(document))
    typer.echo(f"{len(document['requests'])} requests for {model} in {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    typer.run(main)
