"""The settings of the server: each field defines the flag, the environment variable, the default and the help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from swiftrec.server.addresses import MAX_PORT, is_loopback, parse_host
from swiftrec.server.models.device import DeviceName
from swiftrec.server.parts import PARTS, check_parts
from swiftrec.server.variables import is_service_link, split_folders

_MIN_RESPONSE_BYTES = 1_024
_MAX_LIFETIME_S = 86_400 * 20  # of a connection: gRPC stores milliseconds in 32 bits


class ServerSettings(BaseSettings):
    """Serve a bundle over gRPC. Each flag can be set as an environment variable: --port is SWIFTREC_PORT."""

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_", cli_prog_name="swiftrec serve", cli_kebab_case=True, cli_implicit_flags=True
    )

    RENAMED: ClassVar = {
        "max_waiting_jobs": "max_queue_requests",
        "max_waiting_tokens": "max_queue_tokens",
        "max_batch_jobs": "max_batch_size",
    }

    bundle: Annotated[list[Path], NoDecode] = Field(
        min_length=1,
        description="bundle folder: that of a version, or a folder of versions (1, 2, ...), of which the highest is "
        "served; repeat the flag for more bundles (in the variable, separate them by commas); the first is the default",
    )
    repository: Path | None = Field(None, description="folder of bundles that may be loaded by name while running")
    probe_timeout_s: float = Field(
        120,
        gt=0,
        le=3_600,
        description="time limit for the trial of a bundle loaded at run time, in a separate process",
    )
    host: str = Field("127.0.0.1", description="address or name to listen on, such as 127.0.0.1 or ::1")
    port: int = Field(8001, ge=0, le=MAX_PORT, description="gRPC port; 0 takes a free one")
    metrics_host: str = Field(
        "127.0.0.1",
        description="address of /metrics, /healthz and /readyz: plain HTTP without authentication",
    )
    metrics_port: int = Field(8002, ge=0, le=MAX_PORT, description="port of /metrics; 0 takes a free one")
    allow_remote: bool = Field(
        False, description="listen beyond loopback without TLS or authentication; use behind a proxy that has both"
    )
    tls_cert: Path | None = Field(
        None, description="PEM certificate chain; with --tls-key it turns TLS on; reloaded when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM private key of --tls-cert, not encrypted")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM authorities: all clients, including health probes, need a certificate of one of them (mTLS)",
    )
    token_file: Path | None = Field(
        None,
        description="bearer tokens of at least 16 characters, one per line, # comments: all calls but health need one; "
        "reloaded when it changes",
    )
    reflection: bool | None = Field(
        None,
        description="serve reflection, true or false; by default false with --token-file or --tls-client-ca",
    )
    device: DeviceName = Field(
        "cpu", description="where the models run (cuda and tensorrt have not been run on a GPU yet)"
    )
    variant: str | None = Field(
        None, description="encoder variant, e.g. bert3-int8, or only its precision; default: that of the bundle"
    )
    sessions: int = Field(
        0, ge=0, le=64, description="batches of a model that run at the same time; 0: as tuned, or one for each core"
    )
    threads: int = Field(0, ge=0, le=64, description="threads inside an operator; 0: as tuned, or 1")
    max_batch_tokens: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="maximum number of padded tokens in one batch; 0: as tuned, or 1024 (16384 on a GPU)",
    )
    max_batch_size: int = Field(
        64, ge=1, le=4_096, description="maximum number of requests in one step, and of rows in one batch of a model"
    )
    max_queue_requests: int = Field(4_096, ge=1, le=1_000_000, description="maximum number of requests in the queue")
    max_queue_tokens: int = Field(
        262_144, ge=128, le=100_000_000, description="maximum number of tokens of the requests in the queue"
    )
    queue_budget_ms: int = Field(
        1_000, ge=1, le=3_600_000, description="predicted wait beyond which calls are rejected with RESOURCE_EXHAUSTED"
    )
    aging_ms: int = Field(
        100, ge=1, le=3_600_000, description="wait after which the priority of a request rises by one"
    )
    cache_mb: int = Field(64, ge=0, le=1_000_000, description="size of the cache of text vectors, in MB; 0: no cache")
    index: Literal["auto", "exact", "approximate"] = Field(
        "auto",
        description="search of the catalogue: auto is exact below 20,000 items, approximate otherwise",
    )
    parts: Annotated[str, AfterValidator(check_parts)] = Field(
        ",".join(PARTS),
        description="parts of the score to use, of " + ", ".join(PARTS) + "; the bundle has their weights",
    )
    max_calls: int = Field(
        256, ge=1, le=4_096, description="maximum number of concurrent calls; more are rejected with RESOURCE_EXHAUSTED"
    )
    max_text_chars: int = Field(2_000, ge=1, le=100_000, description="maximum number of characters in one text")
    max_history: int = Field(1_000, ge=1, le=100_000, description="maximum number of events in one request")
    max_entries: int = Field(256, ge=1, le=4_096, description="maximum number of requests or texts in one batch call")
    max_items: int = Field(
        20_000, ge=1, le=10_000_000, description="maximum number of items that one call requests: the sum of top_k"
    )
    max_events: int = Field(
        20_000, ge=1, le=10_000_000, description="maximum number of events in all requests of one call"
    )
    max_filter_values: int = Field(
        20_000, ge=1, le=10_000_000, description="maximum number of ids and values in the filters of one call"
    )
    max_message_bytes: int = Field(4_194_304, ge=1_024, le=1_073_741_824, description="maximum bytes of one request")
    max_response_bytes: int = Field(
        4_194_304,
        ge=0,
        le=1_073_741_824,
        description="maximum bytes of one response; 0: no limit. Clients accept 4194304 unless they raise "
        "grpc.max_receive_message_length",
    )
    max_metadata_bytes: int = Field(16_384, ge=1_024, le=1_048_576, description="maximum bytes of one call's metadata")
    max_streams: int = Field(
        1_024,
        ge=1,
        le=65_536,
        description="maximum number of calls on one connection; gRPC clients queue more, the server rejects them",
    )
    max_connections: int = Field(
        1_000, ge=1, le=1_000_000, description="maximum number of connections; further ones are closed immediately"
    )
    max_connection_idle_s: float = Field(
        300, ge=0, le=_MAX_LIFETIME_S, description="time after which a connection without a call is closed; 0: no limit"
    )
    max_connection_age_s: float = Field(
        0,
        ge=0,
        le=_MAX_LIFETIME_S,
        description="age, varied by 10 %, at which a connection stops accepting calls, so that clients reconnect and "
        "find new servers. Calls in flight finish; streams end 5 s after --default-timeout-ms. 0: no limit",
    )
    max_stream_idle_s: float = Field(
        300,
        ge=0,
        le=_MAX_LIFETIME_S,
        description="longest time between two messages of a stream, after which it is ended; 0: no limit",
    )
    send_timeout_ms: int = Field(
        30_000,
        ge=1,
        le=3_600_000,
        description="time in which a client must read a response, after which its call is cancelled",
    )
    min_ping_interval_ms: int = Field(
        30_000,
        ge=0,
        le=3_600_000,
        description="minimum interval of a client's keepalive pings; the third early one closes the connection",
    )
    default_timeout_ms: int = Field(
        10_000,
        ge=1,
        le=3_600_000,
        description="deadline of calls without one, and upper limit of deadlines; for streams, of each message",
    )
    drain_ms: int = Field(
        0,
        ge=0,
        le=3_600_000,
        description="time after SIGTERM in which calls are still accepted while health reports NOT_SERVING, so that "
        "load balancers stop sending calls",
    )
    hang_timeout_ms: int = Field(
        10_000,
        ge=100,
        le=3_600_000,
        description="time after which a step counts as hung, if it is also longer than four times its predicted time: "
        "the server reports NOT_SERVING and exits with code 70",
    )
    grace_ms: int = Field(
        10_000, ge=0, le=3_600_000, description="time for accepted calls to finish after SIGTERM and --drain-ms"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/\s@]+$",
        description="OpenTelemetry collector for traces by OTLP over gRPC, e.g. http://localhost:4317; default: off",
    )
    trace_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of calls without a traceparent that are traced; with one, the caller decides",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ignore variables that Kubernetes sets: SWIFTREC_PORT is a URL if a Service is called swiftrec."""
        if isinstance(env_settings, EnvSettingsSource):
            variables = env_settings.env_vars.items()
            env_settings.env_vars = {name: value for name, value in variables if not is_service_link(name, value or "")}
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @field_validator("bundle", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        if isinstance(value, str):  # from the variable: a flag is a list
            value = split_folders(value)
        if isinstance(value, list) and (not value or "" in value):
            raise ValueError("give a folder")
        return [value] if isinstance(value, Path) else value

    @field_validator("repository")
    @classmethod
    def _repository_is_a_folder(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                os.scandir(value).close()
        except OSError as error:
            raise ValueError(f"not a readable folder ({error.strerror}): create it, or give another") from None
        return value

    @field_validator("host", "metrics_host", mode="after")
    @classmethod
    def _host_can_be_listened_on(cls, value: str) -> str:
        return parse_host(value)

    @field_validator("max_response_bytes")
    @classmethod
    def _has_room_for_an_error(cls, value: int) -> int:
        if 0 < value < _MIN_RESPONSE_BYTES:
            raise ValueError(f"must be at least {_MIN_RESPONSE_BYTES}, or 0 for no limit")
        return value

    @property
    def has_authentication(self) -> bool:
        """Whether callers are authenticated."""
        return self.token_file is not None or self.tls_client_ca is not None

    @property
    def has_reflection(self) -> bool:
        """Whether the reflection service is served."""
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
