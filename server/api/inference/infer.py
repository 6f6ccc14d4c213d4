"""ModelInfer: tensors to the pipeline's requests, its answers to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from server.api.calls import Caller
from server.api.convert import DEFAULT_TOP_K, MAX_TOP_K, InputLimits, check_name, check_text
from server.api.inference.models import ENCODER, ModelSpec, find_model, read_version
from server.api.inference.parameters import Parameters, read_parameters, whole
from server.api.inference.repository import ModelRepository
from server.api.inference.tensors import Tensor, classes, raw_bytes, read_inputs
from server.api.sizes import FLOAT_BYTES, MessageLimits
from server.api.text import is_blank
from server.errors import DeadlineExceeded, InvalidInput, InvalidRequest, SwiftrecError, Unsupported
from server.pipeline.call import Call
from server.pipeline.domain import ItemEvent, Recommendation, Request, TextEvent
from server.pipeline.engine import Engine
from server.telemetry.metrics import Metrics

_TEXT, _ID = "text:", "id:"  # prefixes of the elements of HISTORY
Output = NDArray[np.float32] | list[list[bytes]]


class Inference:
    """Answers ModelInferRequests with the pipeline that answers swiftrec.v1."""

    def __init__(
        self, repository: ModelRepository, limits: InputLimits, sizes: MessageLimits, metrics: Metrics
    ) -> None:
        self._repository, self._limits, self._sizes, self._metrics = repository, limits, sizes, metrics

    async def infer(self, request: pb.ModelInferRequest, caller: Caller) -> pb.ModelInferResponse:
        """Answer one request.

        Raises:
            SwiftrecError: names the input or parameter that is wrong.
        """
        spec, _ = find_model(request.model_name)
        version, asked = read_version(request.model_version), read_parameters(request.parameters)
        with self._repository.use(request.model_name, version, asked.bundle) as engine:
            max_batch = self._repository.max_batch(request.model_name, asked.bundle)
            inputs = read_inputs(request, request.model_name, spec.inputs, max_batch)
            wanted = _wanted(request, spec)
            call, whole_outputs = caller.call(asked.timeout_s), sum(k == 0 for k in wanted.values())
            try:
                outputs = await (self._encode if spec is ENCODER else self._recommend)(
                    engine, inputs, asked, call, whole_outputs
                )
            except DeadlineExceeded:
                raise DeadlineExceeded("Request timeout expired") from None
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=str(engine.bundle.manifest.version), id=request.id
        )
        if asked.wants_final:
            response.parameters["triton_final_response"].bool_param = True
        for name, k in wanted.items():
            _add(response, spec, name, outputs, k)
        return response

    async def _encode(
        self, engine: Engine, inputs: dict[str, Tensor], asked: Parameters, call: Call, whole_outputs: int
    ) -> dict[str, Output]:
        texts = cast("Sequence[str]", inputs["TEXT"].elements)
        checked = [_checked(text, "TEXT", n, self._limits) for n, text in enumerate(texts)]
        self._check_size(whole_outputs, len(texts), engine.bundle.manifest.dimensions)
        return {"EMBEDDING": await engine.recommender.encode(checked, call, asked.priority)}

    def _check_size(self, whole_outputs: int, rows: int, columns: int) -> None:
        """Refuse what is too large before the models run: each element, a text too, has four bytes or more."""
        self._sizes.check_response(FLOAT_BYTES * whole_outputs * rows * columns)

    async def _recommend(
        self, engine: Engine, inputs: dict[str, Tensor], asked: Parameters, call: Call, whole_outputs: int
    ) -> dict[str, Output]:
        requests = self._requests(inputs, asked)
        width = max(request.top_k for request in requests)
        self._check_size(whole_outputs, len(requests), width)
        answers: list[Recommendation] = []
        for result in await engine.recommender.recommend_many(requests, call, is_one_request=True):
            if isinstance(result, SwiftrecError):
                raise result
            self._metrics.observe_steps(result.timings)
            answers.append(result)
        ids = [[item.id.encode() for item, _ in answer.items] for answer in answers]
        scores = np.full((len(answers), width), -np.inf, dtype=np.float32)
        for row, answer in zip(scores, answers, strict=True):
            row[: len(answer.items)] = [score for _, score in answer.items]
        return {"ITEM_ID": [row + [b""] * (width - len(row)) for row in ids], "SCORE": scores}

    def _requests(self, inputs: dict[str, Tensor], asked: Parameters) -> list[Request]:
        rows = next(iter(inputs.values())).shape[0]
        queries = cast("Sequence[str]", inputs["QUERY"].elements) if "QUERY" in inputs else [""] * rows
        sizes = cast("Sequence[int]", inputs["K"].elements) if "K" in inputs else [DEFAULT_TOP_K] * rows
        history = inputs.get("HISTORY", Tensor((rows, 0), []))
        width = history.shape[1]
        if width > self._limits.history:
            raise InvalidInput("HISTORY", f"input 'HISTORY': at most {self._limits.history} events, got {width}")
        events = cast("Sequence[str]", history.elements)
        requests = []
        for n in range(rows):
            if not 1 <= sizes[n] <= MAX_TOP_K:
                raise InvalidInput("K", f"input 'K' element {n} must be in 1..{MAX_TOP_K}, got {sizes[n]}")
            row = [(place, events[place]) for place in range(n * width, (n + 1) * width) if events[place]]
            requests.append(
                Request(
                    history=tuple(_event(text, place, self._limits) for place, text in row),
                    query=_checked(queries[n], "QUERY", n, self._limits) if queries[n] else "",
                    top_k=sizes[n],
                    exclude_history=asked.exclude_history,
                    priority=asked.priority,
                )
            )
        return requests


def _event(text: str, place: int, limits: InputLimits) -> ItemEvent | TextEvent:
    """A text after "text:", an item's id after "id:"; anything else is an item's id, too."""
    if text.startswith(_TEXT):
        return TextEvent(_checked(text.removeprefix(_TEXT), "HISTORY", place, limits))
    item_id = text.removeprefix(_ID)
    if not item_id or is_blank(text):
        raise InvalidInput("HISTORY", f"input 'HISTORY' element {place}: must not be empty, got {text!r}")
    try:
        return ItemEvent(check_name(item_id, "HISTORY"))
    except InvalidRequest as error:
        raise InvalidInput("HISTORY", f"input 'HISTORY' element {place}: {error.reason}") from None


def _checked(text: str, name: str, place: int, limits: InputLimits) -> str:
    try:
        return check_text(text, name, limits)
    except InvalidRequest as error:
        raise InvalidInput(name, f"input '{name}' element {place}: {error.reason}") from None


def _wanted(request: pb.ModelInferRequest, spec: ModelSpec) -> dict[str, int]:
    """Names of the outputs in their order, each with the number of classes asked for (0: the tensor itself)."""
    wanted: dict[str, int] = {}
    for output in request.outputs:
        if output.name in wanted:
            raise InvalidInput(output.name, f"output '{output.name}' already exists in request")
        declared = spec.output(output.name)
        if any(key.startswith("shared_memory") for key in output.parameters):
            raise Unsupported(f"output '{output.name}': shared memory is not supported; it comes in the response")
        k = whole(output.parameters, "classification")
        if k is not None and (k < 1 or declared.datatype != "FP32"):
            raise InvalidInput(
                output.name, f"output '{output.name}': classification needs an FP32 output and a count above 0, got {k}"
            )
        wanted[output.name] = k or 0
    return wanted or {output.name: 0 for output in spec.outputs}


def _add(response: pb.ModelInferResponse, spec: ModelSpec, name: str, outputs: dict[str, Output], k: int) -> None:
    values, datatype = outputs[name], spec.output(name).datatype
    if k and isinstance(values, np.ndarray):
        ids = outputs.get("ITEM_ID")
        labels = [[one.decode() for one in row] for row in ids] if isinstance(ids, list) else None
        values, datatype = classes(values, labels, k), "BYTES"
    if isinstance(values, np.ndarray):
        raw, shape = values.astype("<f4", copy=False).tobytes(), list(values.shape)
    else:
        raw, shape = raw_bytes([one for row in values for one in row]), [len(values), len(values[0])]
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
