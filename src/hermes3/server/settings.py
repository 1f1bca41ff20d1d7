"""A server's settings: from flags, the environment and a TOML file, by one schema."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hermes3.engine.model import KVType
from hermes3.engine.pace import LATENCY_S
from hermes3.engine.vllm.options import Backend, DType
from hermes3.errors import Hermes3Error
from hermes3.llm import EngineChoice
from hermes3.llm.choice import ON_VLLM, OWN, EngineName
from hermes3.server.limits import Limits
from hermes3.server.logs import LogFormat

PREFIX = "HERMES3_"
Several = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What `hermes3 serve` can be told; of several sources a flag goes before the environment, that before
    the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    model: str | None = Field(None, description="Name, path or hf:owner/repo[:file].")
    engine: EngineName = Field("hermes3", description="hermes3, our own on the CPU; or vllm.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0: all of this machine's.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0: any free one.")
    ctx: int | None = Field(None, ge=1, description="Context in tokens, prompt and answer together.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; default: physical cores.")
    latency_s: float = Field(
        LATENCY_S, gt=0, le=3600, description="Seconds that running answers wait for parts of prompts."
    )
    kv_dtype: KVType | None = Field(
        None, description="Type of the KV cache: f16, f32 or q8_0; default: as the weights."
    )
    prefix_folder: Path | None = Field(None, description="Folder that keeps computed system turns.")
    tensor_parallel_size: int = Field(1, ge=1, description="vLLM: devices that share each layer.")
    pipeline_parallel_size: int = Field(1, ge=1, description="vLLM: groups of devices that share the layers.")
    distributed_executor_backend: Backend | None = Field(
        None, description="vLLM: mp, processes of this machine; ray, of a Ray cluster's machines."
    )
    dtype: DType = Field("auto", description="vLLM: of weights and activations; auto: the model's own.")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="vLLM: share of each device's memory."
    )
    enforce_eager: bool = Field(False, description="vLLM: do not compile the model first.")
    served_model_name: str | None = Field(None, description="What /v1/models calls the model.")
    api_key: Several = Field((), description="Keys that clients must send one of.")
    api_key_file: Path | None = Field(None, description="File of keys, or of their hashes: one a line.")
    allowed_host: Several = Field((), description="Names that the server answers to; *: any.")
    cors_origin: Several = Field((), description="Web pages that may ask, by origin (https://example.org).")
    tls_cert: Path | None = Field(None, description="Certificate chain, PEM: serve https.")
    tls_key: Path | None = Field(None, description="The certificate's private key, PEM.")
    log_format: LogFormat = Field("text", description="text, or json: an object a line.")
    otlp_endpoint: str | None = Field(
        None, description="Collector that gets traces by OTLP over HTTP, such as http://localhost:4318."
    )
    trace_prompts: bool = Field(False, description="Whether traces hold what clients wrote.")
    limits: dict[str, int | float] = Field({}, description="Bounds by name; see Limits.")

    @field_validator("api_key", "allowed_host", "cors_origin", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """The environment has several values in one text, with spaces between."""
        return tuple(value.split()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both, or none")
        return self

    def engine_choice(self) -> EngineChoice:
        """The engine, with what it is told.

        Raises:
            RequestError: a setting that it does not have; by name.
        """
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in (*OWN, *ON_VLLM)}
        moved = {name: value for name, value in values.items() if value != fields[name].default}
        return EngineChoice.of(self.engine, n_ctx=self.ctx, n_sequences=None, given=moved)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(flags: Mapping[str, Any], config: Path | None) -> Settings:
    """Settings of all sources.

    Args:
        flags: what was given by flag.
        config: the TOML file; None for none.

    Raises:
        Hermes3Error: an unknown name, a value that will not do, or a file that cannot be read.
    """

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        if config is not None:
            tomllib.loads(config.read_text("utf-8"))
        settings = Configured(**flags)
    except (OSError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise Hermes3Error(f"the settings file {config} cannot be read: {error}") from error
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        message = "is no setting" if first["type"] == "extra_forbidden" else first["msg"]
        remedy = "`hermes3 serve --print-config` shows what there is"
        raise Hermes3Error(f"{name}: {message}; {remedy}") from error
    limits_of(settings)
    settings.engine_choice()
    return settings


def limits_of(settings: Settings) -> Limits:
    """The limits, checked.

    Raises:
        Hermes3Error: see ``Limits.of``.
    """
    return Limits.of(f"{name}={value}" for name, value in settings.limits.items())


def as_toml(settings: Settings) -> str:
    """Settings as a file that ``load`` takes; keys are not shown."""
    lines = ["# hermes3 serve --config FILE; each can be set as HERMES3_NAME or by flag too"]
    for name, field in Settings.model_fields.items():
        if name == "limits":
            continue
        value = getattr(settings, name)
        lines += ["", f"# {field.description}"]
        if name == "api_key" and value:
            lines.append(f"# api_key = [...]  ({len(value)} given, not shown)")
        elif value is None:
            lines.append(f"# {name} =")
        else:
            lines.append(f"{name} = {_toml(value)}")
    lines += ["", "[limits]"]
    limits = limits_of(settings)
    for name in Limits.__annotations__:
        value = getattr(limits, name)
        lines.append(f"# {name} =" if value is None else f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """A value in TOML, whose basic strings are JSON's where DEL is escaped, too."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value)).replace("\x7f", "\\u007f")
