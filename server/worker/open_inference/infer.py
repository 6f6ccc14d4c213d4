"""ModelInfer: converts tensors to requests of the pipeline, and results to tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.domain import ItemEvent, Recommendation, Request, TextEvent
from swiftrec.server.errors import DeadlineExceeded, InvalidInput, InvalidRequest, SwiftrecError, Unsupported
from swiftrec.server.messages import FLOAT_BYTES, decode
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.pipeline.request_state import RequestState
from swiftrec.server.status import sentence
from swiftrec.server.text import is_blank
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.call import WorkerCall
from swiftrec.server.worker.methods import Services, ranker_vectors
from swiftrec.server.worker.open_inference.models import ENCODER, ModelSpec, find_model, read_version
from swiftrec.server.worker.open_inference.parameters import int_param, read_parameters
from swiftrec.server.worker.open_inference.repository import ModelRepository
from swiftrec.server.worker.open_inference.tensors import Tensor, classes, raw_bytes, read_inputs
from swiftrec.server.worker.validate import (
    DEFAULT_TOP_K,
    MAX_TOP_K,
    InputLimits,
    check_events,
    check_items,
    check_name,
    check_text,
)

_TEXT, _ID = "text:", "id:"  # prefixes of the elements of HISTORY
Output = NDArray[np.float32] | list[list[bytes]]


class ModelInferCall(WorkerCall):
    """`ModelInfer`: one request of the protocol, which may have many rows."""

    is_one_request = True

    def __init__(self, services: Services, repository: ModelRepository, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services, self._repository = services, repository

    def prepare(self) -> Iterator[float]:
        """Add a request for each row; they count as one."""
        self._message = message = decode(pb.ModelInferRequest, self.ticket.message)
        self._spec, _ = find_model(message.model_name)
        version, self._parameters = read_version(message.model_version), read_parameters(message.parameters)
        recommender = self.acquire(self._repository.lease(message.model_name, version, self._parameters.bundle))
        max_batch = self._repository.max_batch(message.model_name, self._parameters.bundle)
        inputs = read_inputs(message, message.model_name, self._spec.inputs, max_batch)
        self._outputs = _outputs(message, self._spec)
        if self._parameters.timeout_s is not None:
            self.ticket.deadline = min(self.ticket.deadline, self.arrival + self._parameters.timeout_s)
        if self._spec is ENCODER:
            yield from self._add_texts(recommender, cast("Sequence[str]", inputs["TEXT"].elements))
        else:
            yield from self._add_requests(recommender, inputs)

    def respond(self, now: float) -> bytes:
        """The requested outputs."""
        return self._services.sizes.encode(self._response(now))

    def write_error(self, error: SwiftrecError) -> Reply:
        """The error with Triton's message."""
        return _with_triton_message(error)

    def _response(self, now: float) -> pb.ModelInferResponse:
        message, manifest = self._message, self.tasks[0].recommender.bundle.manifest
        outputs: dict[str, Output] = (
            {"EMBEDDING": ranker_vectors(self.tasks)} if self._spec is ENCODER else self._ranked()
        )
        response = pb.ModelInferResponse(
            model_name=message.model_name, model_version=str(manifest.version), id=message.id
        )
        if self._parameters.wants_final:
            response.parameters["triton_final_response"].bool_param = True
        for name, k in self._outputs.items():
            _add(response, self._spec, name, outputs, k)
        self.count(self.tasks, now)
        return response

    def _add_texts(self, recommender: Recommender, texts: Sequence[str]) -> Iterator[float]:
        checked = [_checked(text, "TEXT", n, self._services.limits) for n, text in enumerate(texts)]
        self._check_size(len(texts), recommender.bundle.manifest.dimensions)
        return self.add_texts(recommender, checked, self._parameters.priority)

    def _add_requests(self, recommender: Recommender, inputs: dict[str, Tensor]) -> Iterator[float]:
        requests = self._requests(inputs)
        self._width = max(request.top_k for request in requests)
        self._check_size(len(requests), self._width)
        _check_totals(requests, self._width, self._services.limits)
        for request in requests:
            self.add(recommender, [recommender.resolve(request)], "ranker", self._parameters.priority)
            yield len(self.tasks) / len(requests)

    def _check_size(self, rows: int, columns: int) -> None:
        """Reject a response that is too large before the models run: each element has at least four bytes."""
        whole_outputs = sum(k == 0 for k in self._outputs.values())
        self._services.sizes.check_response(FLOAT_BYTES * whole_outputs * rows * columns)

    def _ranked(self) -> dict[str, Output]:
        """Ids and scores, padded to the largest K.

        Raises:
            SwiftrecError: the first error of a row.
        """
        results: list[Recommendation] = []
        for task in self.tasks:
            result = task.recommender.to_result(cast("RequestState", task.state))
            if isinstance(result, SwiftrecError):
                raise result
            self._services.metrics.observe_steps(result.timings)
            results.append(result)
        ids = [[item.id.encode() for item, _ in result.items] for result in results]
        scores = np.full((len(results), self._width), -np.inf, dtype=np.float32)
        for row, result in zip(scores, results, strict=True):
            row[: len(result.items)] = [score for _, score in result.items]
        return {"ITEM_ID": [row + [b""] * (self._width - len(row)) for row in ids], "SCORE": scores}

    def _requests(self, inputs: dict[str, Tensor]) -> list[Request]:
        rows = next(iter(inputs.values())).shape[0]
        queries = cast("Sequence[str]", inputs["QUERY"].elements) if "QUERY" in inputs else [""] * rows
        sizes = cast("Sequence[int]", inputs["K"].elements) if "K" in inputs else [DEFAULT_TOP_K] * rows
        history = inputs.get("HISTORY", Tensor((rows, 0), []))
        width = history.shape[1]
        if width > self._services.limits.history:
            raise InvalidInput(
                "HISTORY", f"input 'HISTORY': at most {self._services.limits.history} events, got {width}"
            )
        events = cast("Sequence[str]", history.elements)
        requests = []
        for n in range(rows):
            if not 1 <= sizes[n] <= MAX_TOP_K:
                raise InvalidInput("K", f"input 'K' element {n} must be in 1..{MAX_TOP_K}, got {sizes[n]}")
            row = [(index, events[index]) for index in range(n * width, (n + 1) * width) if events[index]]
            requests.append(
                Request(
                    history=tuple(_event(text, index, self._services.limits) for index, text in row),
                    query=_checked(queries[n], "QUERY", n, self._services.limits) if queries[n] else "",
                    top_k=sizes[n],
                    exclude_history=self._parameters.exclude_history,
                    priority=self._parameters.priority,
                )
            )
        return requests


class ModelStreamInferCall(ModelInferCall):
    """One message of `ModelStreamInfer`; an error affects only this message."""

    def respond(self, now: float) -> bytes:
        """The outputs, as a message of the stream."""
        return self._services.sizes.encode(pb.ModelStreamInferResponse(infer_response=self._response(now)))

    def write_error(self, error: SwiftrecError) -> Reply:
        """The error as a message of the stream, with the model name and the id of the request."""
        try:
            request = pb.ModelInferRequest.FromString(self.ticket.message)
        except DecodeError:
            request = pb.ModelInferRequest()
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        text = sentence(_with_triton_message(error))
        data: bytes = pb.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
        return data


def inference_methods(
    services: Services, repository: ModelRepository
) -> dict[str, Callable[[Ticket, float], WorkerCall]]:
    """Full name of a method -> constructor of its calls."""
    service = "/inference.GRPCInferenceService"
    return {
        f"{service}/ModelInfer": partial(ModelInferCall, services, repository),
        f"{service}/ModelStreamInfer": partial(ModelStreamInferCall, services, repository),
    }


def _with_triton_message(error: SwiftrecError) -> SwiftrecError:
    return DeadlineExceeded("Request timeout expired") if isinstance(error, DeadlineExceeded) else error


def _check_totals(requests: Sequence[Request], width: int, limits: InputLimits) -> None:
    """Reject too many items or events in one request; each row of the outputs has `width` items, the largest K."""
    try:
        check_items(len(requests) * width, "K", limits)
        check_events(sum(len(request.history) for request in requests), "HISTORY", limits)
    except InvalidRequest as error:
        raise InvalidInput(error.field, f"input '{error.field}' {error.reason}") from None


def _event(text: str, index: int, limits: InputLimits) -> ItemEvent | TextEvent:
    """Parse an event: a text after "text:", else an item id, optionally after "id:"."""
    if text.startswith(_TEXT):
        return TextEvent(_checked(text.removeprefix(_TEXT), "HISTORY", index, limits))
    item_id = text.removeprefix(_ID)
    if not item_id or is_blank(text):
        raise InvalidInput("HISTORY", f"input 'HISTORY' element {index}: must not be empty, got {text!r}")
    try:
        return ItemEvent(check_name(item_id, "HISTORY"))
    except InvalidRequest as error:
        raise InvalidInput("HISTORY", f"input 'HISTORY' element {index}: {error.reason}") from None


def _checked(text: str, name: str, index: int, limits: InputLimits) -> str:
    try:
        return check_text(text, name, limits)
    except InvalidRequest as error:
        raise InvalidInput(name, f"input '{name}' element {index}: {error.reason}") from None


def _outputs(request: pb.ModelInferRequest, spec: ModelSpec) -> dict[str, int]:
    """The requested outputs in order, each with its number of classes (0: the tensor itself)."""
    requested: dict[str, int] = {}
    for output in request.outputs:
        if output.name in requested:
            raise InvalidInput(output.name, f"output '{output.name}' already exists in request")
        declared = spec.output(output.name)
        if any(key.startswith("shared_memory") for key in output.parameters):
            raise Unsupported(f"output '{output.name}': shared memory is not supported; it comes in the response")
        k = int_param(output.parameters, "classification")
        if k is not None and (k < 1 or declared.datatype != "FP32"):
            raise InvalidInput(
                output.name, f"output '{output.name}': classification needs an FP32 output and a count above 0, got {k}"
            )
        requested[output.name] = k or 0
    return requested or {output.name: 0 for output in spec.outputs}


def _add(response: pb.ModelInferResponse, spec: ModelSpec, name: str, outputs: dict[str, Output], k: int) -> None:
    values, datatype = outputs[name], spec.output(name).datatype
    if k and isinstance(values, np.ndarray):
        ids = outputs.get("ITEM_ID")
        labels = [[item_id.decode() for item_id in row] for row in ids] if isinstance(ids, list) else None
        values, datatype = classes(values, labels, k), "BYTES"
    if isinstance(values, np.ndarray):
        raw, shape = values.astype("<f4", copy=False).tobytes(), list(values.shape)
    else:
        raw, shape = raw_bytes([element for row in values for element in row]), [len(values), len(values[0])]
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
