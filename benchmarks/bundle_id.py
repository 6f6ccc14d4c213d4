"""Which bundle a result was measured with. Results of two bundles are never compared or shown as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from swiftrec.server.models.bundle import Manifest

_KEY_CHARACTERS = 12  # of the export key, in sentences


@dataclass(frozen=True, slots=True)
class BundleId:
    """Name, version and export key: two exports with the same name and version may hold different models."""

    name: str
    version: str
    export_key: str

    @classmethod
    def of(cls, manifest: Manifest) -> BundleId:
        """The bundle with this manifest."""
        return cls(manifest.name, str(manifest.version), manifest.export_key)

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> BundleId | None:
        """What `fields` wrote; None if one of the three is missing, as in results of earlier versions."""
        name, version, export_key = (fields.get(field) for field in ("name", "version", "export_key"))
        if name is None or version is None or export_key is None:
            return None
        return cls(name, version, export_key)

    def fields(self) -> dict[str, str]:
        """For a result file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} version {self.version} (export key {self.export_key[:_KEY_CHARACTERS] or 'empty'})"
