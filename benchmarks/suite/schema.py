"""`swiftrec bench schema`: what stands in result.json, as a JSON schema."""

from __future__ import annotations

import json
import sys

from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks.suite.result import Result


class SchemaSettings(BaseSettings):
    """Print the JSON schema of result.json."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench schema")


def run(_settings: SchemaSettings) -> int:
    """Print it."""
    sys.stdout.write(json.dumps(Result.model_json_schema(mode="serialization"), indent=1) + "\n")
    return 0
