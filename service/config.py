"""Every knob of a replica, frozen and validated: command line > SWAN_* environment > serve config file > default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service.errors import InvalidRequest
from service.inference.limits import Limits

ENVIRONMENT_PREFIX = "SWAN_"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PROGRESS_VARIABLE = "SWAN_PROGRESS_FILE"

PolicyName = Literal["drain-feasible", "fixed", "shadow"]


class InvalidSetting(InvalidRequest):
    """A setting is unknown or out of range; the message names the field and what is allowed."""


class Settings(BaseSettings):
    """What one replica needs to know. Ports, replicas and autoscaling are Ray Serve's and stay in its config file."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid", validate_default=True)

    models_dir: Path | None = Field(None, description="Folder with model packages (NAME/VERSION/model.json).")
    models: tuple[str, ...] = Field((), description="Names to load at start, as a JSON list; empty = all.")
    server_name: str = Field(
        "swan-serve",
        min_length=1,
        max_length=128,
        description="`name` in server metadata; Triton's examples expect triton.",
    )
    threads: int = Field(1, ge=1, le=256, description="Executor threads of one replica: one per core it may use.")
    engine: Literal["process", "thread"] = Field(
        "process", description="Where gated models run: in a process beside the replica's, or on threads of it."
    )
    weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of gated weights; bfloat16 halves what a request of few rows must read."
    )

    policy: PolicyName = Field("drain-feasible", description="How the budget is chosen under load.")
    fixed_budget: float = Field(1.0, gt=0.0, le=1.0, description="Budget of the policy `fixed`.")
    max_queue_requests: int = Field(
        4096, ge=1, le=1_000_000, description="Waiting requests of a replica before it refuses."
    )
    quota_macs_per_second: float | None = Field(
        None, gt=0.0, description="Compute that one tenant may spend on average; empty = no limit."
    )
    quota_burst_s: float = Field(2.0, gt=0.0, le=3600.0, description="Seconds of its quota a tenant may save up.")
    quota_tenants: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        {}, description='MACs per second of single tenants, as JSON: {"name": 1e9}.'
    )
    tenant_header: str = Field(
        "",
        pattern=r"^[a-z0-9-]{0,64}$",
        description="Request header that names the tenant where no API keys are asked; set by a gateway, lower case.",
    )
    profile_cache_dir: Path | None = Field(
        None, description="Folder for measured service times; empty = the user's cache."
    )
    image_cache_dir: Path | None = Field(
        None, description="Read-only folder of caches made with an image; the user's cache is filled with links to it."
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on every node for that node's /metrics, shared by its replicas; 0 = only behind the ingress.",
    )

    limits: Limits = Field(
        Limits(), description="Bounds on requests; SWAN_LIMITS__NAME sets one, `swan settings` lists them."
    )
    nan_as_null: bool = Field(False, description="Answer NaN in JSON outputs as null instead of the NaN literal.")

    admin_enabled: bool = Field(False, description="Offer load, unload and control routes.")
    api_keys_file: Path | None = Field(None, description="File of hashed API keys with scopes; empty = no keys asked.")

    log_format: Literal["auto", "human", "json"] = Field(
        "auto", description="Shape of log lines; auto: human on terminals."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    access_log_sample: float = Field(0.0, ge=0.0, le=1.0, description="Share of requests that get an access log line.")
    otlp_ratio: float = Field(0.01, ge=0.0, le=1.0, description="Share of requests that are traced.")
    otlp_endpoint: str = Field("", max_length=1024, description="OpenTelemetry collector for traces; empty = none.")

    @model_validator(mode="after")
    def _check_folders(self) -> Settings:
        if self.models_dir is not None and not self.models_dir.is_dir():
            raise ValueError(f"models_dir: expected an existing folder, got {self.models_dir}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged counts: the ranks of file and environment are decided there."""
        return (init_settings,)

    @classmethod
    def load(cls, file: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Merge file < environment < overrides and validate. Raises InvalidSetting with one line per problem."""
        environment = EnvSettingsSource(cls, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__")()
        try:
            return cls(**{**(file or {}), **environment, **(overrides or {})})
        except ValidationError as error:
            raise InvalidSetting("; ".join(_explain(problem) for problem in error.errors())) from None


def metrics_folder() -> Path | None:
    """Where the replica processes of a node keep their metrics; prometheus_client reads the same variable at import."""
    folder = os.environ.get(METRICS_VARIABLE)
    return Path(folder) if folder else None


def progress_file() -> Path | None:
    """Where a starting replica notes what it does; set by `swan serve`, which shows it."""
    path = os.environ.get(PROGRESS_VARIABLE)
    return Path(path) if path else None


def environment_of(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Overrides as SWAN_* variables, so that they outrank the file in every process of the cluster too."""
    return {f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value) for name, value in overrides.items()}


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"][:1])
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown setting; known: {', '.join(sorted(Settings.model_fields))}"
    if not name:
        return str(problem["msg"]).removeprefix("Value error, ")
    field = Settings.model_fields[name]
    limits = [_limit(bound) for bound in field.metadata]
    allowed = f" (allowed: {', '.join(limit for limit in limits if limit)})" if any(limits) else ""
    return f"{name}: {problem['msg']}{allowed}, got {problem['input']!r}; {field.description}"


def _limit(bound: Any) -> str:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if hasattr(bound, attribute):
            return f"{sign} {getattr(bound, attribute)}"
    return ""
