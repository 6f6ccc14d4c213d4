"""Every setting of the server, once: the field is the flag, the environment variable, the default and the help."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from server.addresses import MAX_PORT, is_loopback, parse_host
from server.errors import ConfigError
from server.parts import PARTS, check_parts
from server.variables import is_service_link, unread_variables
from server.version import add_version_flag

S = TypeVar("S", bound=BaseSettings)
_LEAST_RESPONSE_BYTES = 1_024


class ServerSettings(BaseSettings):
    """Serve a bundle over gRPC. Each flag can be set as an environment variable: --port is SWIFTREC_PORT.

    Other commands:
      python -m server tune   find the fastest settings for a bundle on this machine
      python -m server probe  try a bundle without serving it: exit code 0, or 2 with the reason
    """

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_", cli_prog_name="python -m server", cli_kebab_case=True, cli_implicit_flags=True
    )

    bundle: Annotated[list[Path], NoDecode] = Field(
        min_length=1,
        description="bundle folder: a version's folder serves that version, a folder of versions (1, 2, ...) the "
        "highest; give the flag again for more bundles (in the variable put commas between them), the first is the "
        "default",
    )
    repository: Path | None = Field(None, description="folder of bundles that may be loaded by name while running")
    host: str = Field("127.0.0.1", description="address or name to listen on, such as 127.0.0.1 or ::1")
    port: int = Field(8001, ge=0, le=MAX_PORT, description="gRPC port; 0 takes a free one")
    metrics_host: str = Field(
        "127.0.0.1",
        description="address of /metrics, /healthz and /readyz: plain HTTP, open to all who reach it",
    )
    metrics_port: int = Field(8002, ge=0, le=MAX_PORT, description="port of /metrics; 0 takes a free one")
    allow_remote: bool = Field(
        False, description="listen beyond loopback without TLS or authentication, behind a proxy that has both"
    )
    tls_cert: Path | None = Field(
        None, description="PEM certificate chain: with --tls-key it turns TLS on; read again when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM private key of --tls-cert, not encrypted")
    tls_client_ca: Path | None = Field(
        None, description="PEM authorities: each client, health probes too, needs a certificate of one of them (mTLS)"
    )
    token_file: Path | None = Field(
        None,
        description="bearer tokens of at least 16 characters, one a line, # comments: each call but health needs one; "
        "read again when it changes",
    )
    reflection: bool | None = Field(
        None,
        description="offer reflection, true or false; by default false with --token-file or --tls-client-ca",
    )
    device: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="where the models run (cuda and tensorrt: never run on a GPU yet)"
    )
    variant: str | None = Field(
        None, description="encoder, e.g. bert3-int8, or only its precision; the bundle's default if not given"
    )
    sessions: int = Field(0, ge=0, le=64, description="threads that run each model; 0: as tuned, or one for each core")
    threads: int = Field(0, ge=0, le=64, description="threads inside an operator; 0: as tuned, or 1")
    max_batch_tokens: int = Field(
        0, ge=0, le=1_000_000, description="padded tokens in one batch; 0: as tuned, or 1024 (16384 on a GPU)"
    )
    max_batch_jobs: int = Field(64, ge=1, le=4_096, description="texts or users in one batch")
    max_waiting_jobs: int = Field(4_096, ge=1, le=1_000_000, description="jobs that may wait for each model")
    max_waiting_tokens: int = Field(262_144, ge=128, le=100_000_000, description="tokens that may wait for each model")
    queue_budget_ms: int = Field(
        1_000, ge=1, le=3_600_000, description="predicted wait beyond which work is refused with RESOURCE_EXHAUSTED"
    )
    aging_ms: int = Field(100, ge=1, le=3_600_000, description="wait after which a job counts as one priority higher")
    cache_mb: int = Field(64, ge=0, le=1_000_000, description="vectors of texts used last, in MB; 0: no cache")
    index: Literal["auto", "exact", "approximate"] = Field(
        "auto",
        description="how the catalogue is searched: auto is exact below 20,000 items and approximate from there on",
    )
    parts: Annotated[str, AfterValidator(check_parts)] = Field(
        ",".join(PARTS),
        description="parts of the score that count, of " + ", ".join(PARTS) + "; the bundle has the weight of each",
    )
    max_calls: int = Field(256, ge=1, le=4_096, description="calls at once; beyond it RESOURCE_EXHAUSTED")
    max_text_chars: int = Field(2_000, ge=1, le=100_000, description="characters of one text")
    max_history: int = Field(1_000, ge=1, le=100_000, description="events of one request")
    max_entries: int = Field(256, ge=1, le=4_096, description="entries of one list request")
    max_message_bytes: int = Field(4_194_304, ge=1_024, le=1_073_741_824, description="bytes of one request")
    max_response_bytes: int = Field(
        4_194_304,
        ge=0,
        le=1_073_741_824,
        description="bytes of one response; 0: no limit. Clients read 4194304 unless they raise "
        "grpc.max_receive_message_length",
    )
    max_metadata_bytes: int = Field(16_384, ge=1_024, le=1_048_576, description="bytes of one call's metadata")
    max_streams: int = Field(1_024, ge=1, le=65_536, description="calls in flight on one connection; more wait")
    max_connections: int = Field(1_000, ge=1, le=1_000_000, description="connections; more are closed at once")
    default_timeout_ms: int = Field(
        10_000,
        ge=1,
        le=3_600_000,
        description="deadline of a call that brings none or a later one; in a stream, of each message",
    )
    grace_ms: int = Field(10_000, ge=0, le=3_600_000, description="time for accepted calls after SIGTERM")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/\s@]+$",
        description="OpenTelemetry collector for traces by OTLP over gRPC, e.g. http://localhost:4317; by default off",
    )
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="share of calls without a traceparent that are traced; else the caller decides"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Pass over variables that Kubernetes sets: SWIFTREC_PORT is a URL where a Service is called swiftrec."""
        if isinstance(env_settings, EnvSettingsSource):
            variables = env_settings.env_vars.items()
            env_settings.env_vars = {name: value for name, value in variables if not is_service_link(name, value or "")}
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @field_validator("bundle", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        if isinstance(value, str):  # of the variable: a flag comes as a list
            value = _split_folders(value)
        if isinstance(value, list) and (not value or "" in value):
            raise ValueError("a folder is needed")
        return [value] if isinstance(value, Path) else value

    @field_validator("host", "metrics_host", mode="after")
    @classmethod
    def _host_can_be_listened_on(cls, value: str) -> str:
        return parse_host(value)

    @field_validator("max_response_bytes")
    @classmethod
    def _has_room_for_an_error(cls, value: int) -> int:
        if 0 < value < _LEAST_RESPONSE_BYTES:
            raise ValueError(f"must be at least {_LEAST_RESPONSE_BYTES}, or 0 for no limit")
        return value

    @property
    def has_authentication(self) -> bool:
        """Whether a caller must show who he is."""
        return self.token_file is not None or self.tls_client_ca is not None

    @property
    def has_reflection(self) -> bool:
        """Whether the reflection service is offered."""
        return not self.has_authentication if self.reflection is None else self.reflection

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, lacking = ("--tls-cert", "--tls-key") if self.tls_cert else ("--tls-key", "--tls-cert")
            raise ValueError(f"{given} needs {lacking}: give both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("--tls-client-ca needs TLS: give --tls-cert and --tls-key, too")
        return self

    @model_validator(mode="after")
    def _loopback_unless_secure_or_allowed(self) -> Self:
        lacking = [] if self.tls_cert else ["TLS"]
        lacking += [] if self.has_authentication else ["authentication"]
        if lacking and not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"--host {self.host} is reachable from other machines without {' and '.join(lacking)}: use 127.0.0.1, "
                "or give --tls-cert, --tls-key and one of --token-file and --tls-client-ca, or add --allow-remote "
                "behind a proxy that has both"
            )
        return self


def read_settings(kind: type[S], argv: Sequence[str] | None = None, others: Sequence[type[BaseSettings]] = ()) -> S:
    """Read settings from flags and the environment; warn on stderr of variables that begin like ours and set nothing.

    `--help` and `--version` print and end the process.

    Args:
        kind: the settings of the program.
        argv: its flags; those of the process if not given.
        others: settings of other commands whose variables begin alike.

    Raises:
        ConfigError: one sentence for each setting that is wrong.
    """
    source: CliSettingsSource[Any] = CliSettingsSource(kind)
    source.root_parser.description = inspect.cleandoc(kind.__doc__ or "")
    add_version_flag(source.root_parser)
    namespace = source.root_parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    _warn_of_unread_variables([kind, *others])
    lists = _take_lists(kind, namespace)
    try:
        return kind(_cli_settings_source=source(parsed_args=namespace), **lists)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(e["loc"], e["msg"], e.get("input")) for e in error.errors())) from None
    except SettingsError as error:  # a flag or variable of a list that is no list
        raise ConfigError(f"a flag or variable cannot be read: {error}") from None


def require_utf8(value: str, remedy: str) -> str:
    """Text from a flag or a variable, for a validator of settings.

    Raises:
        ValueError: its bytes are not UTF-8, so it could neither be sent nor written.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is not UTF-8: {remedy}") from None
    return value


def _take_lists(kind: type[BaseSettings], namespace: argparse.Namespace) -> dict[str, Any]:
    """Flags whose values are taken as they are: pydantic would join them with commas, which paths may have, too."""
    names = [name for name, field in kind.model_fields.items() if NoDecode in field.metadata and name in namespace]
    lists = {name: getattr(namespace, name) for name in names}
    for name in names:
        delattr(namespace, name)
    return lists


def _warn_of_unread_variables(kinds: Sequence[type[BaseSettings]]) -> None:
    config = kinds[0].model_config
    program = str(config.get("cli_prog_name") or "").removeprefix("python -m ")
    fields = [name for kind in kinds for name in kind.model_fields]
    for name, similar in unread_variables(os.environ, config.get("env_prefix", ""), fields):
        hint = f"did you mean {similar}?" if similar else f"python -m {program} --help lists the settings"
        sys.stderr.write(f"{program}: warning: {name} is no setting and is ignored: {hint}\n")


def _split_folders(value: str) -> list[str]:
    """The folders of the variable, between commas; a comma belongs to a folder's name where only that names a folder.

    Raises:
        ValueError: it can be read in two ways.
    """
    parts, folders, start = value.split(","), list[str](), 0
    while start < len(parts):
        readings = {end: ",".join(parts[start:end]).strip() for end in range(start + 1, len(parts) + 1)}
        # Path raises where a name is too long.
        existing = [end for end, folder in readings.items() if os.path.exists(folder)]  # noqa: PTH110
        if len(existing) > 1:
            first, second = (readings[end] for end in existing[:2])
            raise ValueError(
                f"the variable has commas between folders, and {first} and {second} both exist: use the flag"
            )
        end = existing[0] if existing else start + 1
        folders.append(readings[end])
        start = end
    return [folder for folder in folders if folder]


def _sentence(place: tuple[int | str, ...], message: str, value: object) -> str:
    message = message.removeprefix("Value error, ")
    if not place:
        return message
    flag = f"--{str(place[0]).replace('_', '-')}"
    return f"{flag} is required" if message == "Field required" else f"{flag}: {message}, got {value!r}"
