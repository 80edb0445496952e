"""The `swan` command: one sub-command a module in service/commands, imported only when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

# name -> (module that defines `app` (a group) or `command` (a function), one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("service.commands.serve", "Start the service: HTTP and gRPC, all packaged models."),
    "infer": ("service.commands.infer", "Send an image, text or array to a running service and show the answer."),
    "keys": ("service.commands.keys", "Create, list and revoke API keys."),
    "models": ("service.commands.models", "List model packages with their quality and compute curves."),
    "gate": ("service.commands.gate", "Gate a trained dense torch model without training and package it."),
    "calibrate": ("service.commands.calibrate", "Recalibrate a package on your own data."),
    "compact": ("service.commands.compact", "Export a plain dense model for one budget."),
    "settings": ("service.commands.settings", "List all settings with their variables, values and meanings."),
    "bench": ("service.commands.bench", "Benchmarks: kernels, models, overhead, serving."),
    "simulate": ("service.commands.simulate", "Simulate budget policies on traffic shapes."),
    "loadtest": ("service.commands.loadtest", "Run a load test scenario against a service."),
}


class LazyGroup(TyperGroup):
    """Imports a sub-command's module when it is asked for: `swan --help` stays fast and needs neither torch nor ray."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode="rich", add_completion=False)


@app.callback()
def root() -> None:
    """Serve gated neural networks: skip inactive units for real, hold deadlines under load, report every MAC."""


def main() -> None:
    app()


if __name__ == "__main__":
    main()
