"""The program in swan_runtime/README.md runs as it stands and does what the text says."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[3] / "swan_runtime" / "README.md"


def test_the_readme_program_runs_and_spends_what_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, README.name, "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines] == ["1.0", "0.5", "0.1"]
    macs = [report.macs_active for report in names["reports"]]
    assert macs[0] > macs[1] > macs[2]
    assert names["table"].at(0.1).quality > 0.8
    assert names["table"].at(1.0).quality > 0.9
