"""`swiftrec bench schema`: the JSON schema of bench.json."""

from __future__ import annotations

import json
import sys

from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks.suite.result import Result


class SchemaSettings(BaseSettings):
    """Print the JSON schema of bench.json. Use it to read results with other programs."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench schema")


def run(_settings: SchemaSettings) -> int:
    """Print the schema."""
    sys.stdout.write(json.dumps(Result.model_json_schema(mode="serialization"), indent=1) + "\n")
    return 0
