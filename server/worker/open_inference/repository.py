"""The model repository of the Open Inference Protocol: model names for the loaded bundles.

A bundle has two models, `BUNDLE.encoder` and `BUNDLE.recommender`; its name alone refers to its recommender. `encoder`
and `recommender` are the models of the default bundle. The models of a bundle are loaded and unloaded together, by any
of these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.errors import InvalidInput, NotFound, NotServing, SwiftrecError
from swiftrec.server.models.engines import Lease
from swiftrec.server.models.registry import Entry, Registry
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.worker.open_inference.models import MODELS, ModelSpec, find_model, read_version

_SHOWN_CHARS = 64


class ModelRepository:
    """Finds, lists, loads and unloads models by name.

    Args:
        registry: the bundles.
        is_ready: whether the server accepts calls.
        max_batch: maximum rows of a request; loading a model with a `config` may lower it.
    """

    def __init__(self, registry: Registry[Recommender], is_ready: Callable[[], bool], max_batch: int) -> None:
        self._registry, self._is_ready, self._max_batch = registry, is_ready, max_batch
        self._lowered: dict[str, int] = {}  # max_batch_size of bundles that were loaded with one

    def lease(self, name: str, version: int = 0, bundle: str = "") -> Lease[Recommender]:
        """The recommender of a model.

        Args:
            name: of the model.
            version: 0 for the newest.
            bundle: the bundle that "encoder" and "recommender" refer to; "" for the default.

        Raises:
            NotFound: there is no such model, or it is not loaded.
            NotServing: the server is starting.
        """
        named = find_model(name)[1]
        try:
            return self._registry.lease(named or bundle, version)
        except NotFound:
            if named and named not in self._registry.names():
                raise NotFound(f"Request for unknown model: '{name}' is not found") from None
            raise

    def recommenders(self, name: str, version: int = 0) -> list[Recommender]:
        """The recommender of a version of a model, or those of all its loaded versions, the newest last.

        Raises:
            NotFound, NotServing: as `lease`.
        """
        with self.lease(name, version) as recommender:
            if version:
                return [recommender]
            bundle = recommender.bundle.manifest.name
        serving = [recommender for recommender in self._registry.ready() if recommender.bundle.manifest.name == bundle]
        return sorted(serving, key=lambda recommender: recommender.bundle.manifest.version)

    def max_batch(self, name: str, bundle: str = "") -> int:
        """Maximum rows of a request to a model; arguments as in `lease`."""
        return self._lowered.get(find_model(name)[1] or bundle or self._registry.default, self._max_batch)

    def is_model_ready(self, name: str, version: int = 0) -> bool:
        """Whether a model is ready."""
        try:
            with self.lease(name, version):
                return self._is_ready()
        except (NotFound, NotServing):
            return False

    def index(self, *, only_ready: bool = False) -> Iterator[pb.RepositoryIndexResponse.ModelIndex]:
        """Every version of every model under each of its names, and why it is not loaded if it is not."""
        is_ready = self._is_ready()
        for entry in self._registry.index():
            is_entry_ready = is_ready and entry.is_ready
            if is_entry_ready or not only_ready:
                for name in self._names(entry):
                    yield pb.RepositoryIndexResponse.ModelIndex(
                        name=name,
                        version=str(entry.version),
                        state="READY" if is_entry_ready else "UNAVAILABLE",
                        reason="" if is_entry_ready else entry.reason or "not loaded",
                    )

    def all_models(self) -> Iterator[tuple[str, ModelSpec, Recommender]]:
        """Both models of each loaded bundle, under their shortest unique names."""
        for recommender in self._registry.ready():
            bundle = recommender.bundle.manifest.name
            for spec in MODELS.values():
                yield spec.name if bundle == self._registry.default else f"{bundle}.{spec.name}", spec, recommender

    def load(self, name: str, parameters: Mapping[str, pb.ModelRepositoryParameter], wait_s: float) -> None:
        """Load the bundle of a model: its newest version, or that of the parameter "version".

        Raises:
            SwiftrecError: nothing was changed; the message begins like Triton's.
        """
        try:
            version, max_batch = self._read(parameters)
            bundle = self._bundle(name)
            self._registry.load(bundle, version, wait_s, lambda: self._lower(bundle, max_batch))
        except SwiftrecError as error:
            raise _prefixed(error, f"failed to load '{name[:_SHOWN_CHARS]}': ") from None

    def unload(self, name: str, wait_s: float) -> None:
        """Unload all versions of the bundle of a model.

        Raises:
            SwiftrecError: nothing was changed; the message begins like Triton's.
        """
        try:
            self._registry.unload(self._bundle(name), wait_s)
        except SwiftrecError as error:
            raise _prefixed(error, f"failed to unload '{name[:_SHOWN_CHARS]}': ") from None

    def _lower(self, bundle: str, max_batch: int) -> None:
        """Set the maximum rows of a request to a bundle; 0 means the server's limit."""
        if max_batch:
            self._lowered[bundle] = max_batch
        else:
            self._lowered.pop(bundle, None)

    def _bundle(self, name: str) -> str:
        bundle = find_model(name)[1] or self._registry.default
        if not bundle:
            raise NotServing("no bundle is loaded yet: the server is starting")
        return bundle

    def _names(self, entry: Entry) -> list[str]:
        """The names of the models of the entry, without names that refer to another bundle."""
        qualified = [entry.name, *(f"{entry.name}.{model}" for model in MODELS)]
        names = qualified + list(MODELS) if entry.name == self._registry.default else qualified
        return [name for name in dict.fromkeys(names) if self._means(name, entry.name)]

    def _means(self, name: str, bundle: str) -> bool:
        try:
            return (find_model(name)[1] or self._registry.default) == bundle
        except NotFound:
            return False

    def _read(self, parameters: Mapping[str, pb.ModelRepositoryParameter]) -> tuple[int, int]:
        """The version to load and the maximum batch size, each 0 if not given."""
        for name in parameters:
            if name not in {"version", "config"}:
                raise InvalidInput(
                    name,
                    f"load parameter '{name[:_SHOWN_CHARS]}' is not supported: bundles are loaded as they are on disk",
                )
        value = parameters.get("version")
        version = read_version("" if value is None else value.string_param or str(value.int64_param))
        return version, self._read_config(parameters["config"].string_param) if "config" in parameters else 0

    def _read_config(self, text: str) -> int:
        try:
            config = json_format.Parse(text, config_pb.ModelConfig())
        except json_format.ParseError:
            raise InvalidInput("config", "load parameter 'config' is not a valid model configuration in JSON") from None
        given = [field.name for field, _ in config.ListFields() if field.name != "max_batch_size"]
        if given:
            raise InvalidInput(
                "config",
                f"load parameter 'config' can change max_batch_size, but not {', '.join(given)}: omit it",
            )
        if not 0 <= config.max_batch_size <= self._max_batch:
            raise InvalidInput(
                "config",
                f"load parameter 'config': max_batch_size must be 1..{self._max_batch} (--max-entries), "
                f"got {config.max_batch_size}",
            )
        return int(config.max_batch_size)


def _prefixed(error: SwiftrecError, prefix: str) -> SwiftrecError:
    """The error with `prefix` before its message."""
    error.args = (f"{prefix}{error}",)
    return error
