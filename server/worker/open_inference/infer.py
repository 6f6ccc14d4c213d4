"""ModelInfer: tensors to the pipeline's requests, its answers to tensors."""

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
from swiftrec.server.worker.methods import Services, vectors_of
from swiftrec.server.worker.open_inference.models import ENCODER, ModelSpec, find_model, read_version
from swiftrec.server.worker.open_inference.parameters import read_parameters, whole
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
from swiftrec.server.worker.work import Work

_TEXT, _ID = "text:", "id:"  # prefixes of the elements of HISTORY
Output = NDArray[np.float32] | list[list[bytes]]


class Inference(Work):
    """`ModelInfer`: one request of the protocol, which may have many rows."""

    is_one_request = True

    def __init__(self, services: Services, repository: ModelRepository, ticket: Ticket, arrival: float) -> None:
        super().__init__(ticket, arrival)
        self._services, self._repository = services, repository

    def open(self) -> Iterator[float]:
        """A request for each row; all of them count as one."""
        self._message = message = decode(pb.ModelInferRequest, self.ticket.message)
        self._spec, _ = find_model(message.model_name)
        version, self._asked = read_version(message.model_version), read_parameters(message.parameters)
        recommender = self.hold(self._repository.use(message.model_name, version, self._asked.bundle))
        max_batch = self._repository.max_batch(message.model_name, self._asked.bundle)
        inputs = read_inputs(message, message.model_name, self._spec.inputs, max_batch)
        self._outputs = _outputs(message, self._spec)
        if self._asked.timeout_s is not None:
            self.ticket.deadline = min(self.ticket.deadline, self.arrival + self._asked.timeout_s)
        if self._spec is ENCODER:
            yield from self._add_texts(recommender, cast("Sequence[str]", inputs["TEXT"].elements))
        else:
            yield from self._add_requests(recommender, inputs)

    def respond(self, now: float) -> bytes:
        """The outputs that were asked for."""
        return self._services.sizes.encode(self._response(now))

    def fail(self, error: SwiftrecError) -> Reply:
        """The error in Triton's words."""
        return _in_tritons_words(error)

    def _response(self, now: float) -> pb.ModelInferResponse:
        message, manifest = self._message, self.tasks[0].recommender.bundle.manifest
        outputs: dict[str, Output] = {"EMBEDDING": vectors_of(self.tasks)} if self._spec is ENCODER else self._ranked()
        response = pb.ModelInferResponse(
            model_name=message.model_name, model_version=str(manifest.version), id=message.id
        )
        if self._asked.wants_final:
            response.parameters["triton_final_response"].bool_param = True
        for name, k in self._outputs.items():
            _add(response, self._spec, name, outputs, k)
        self.count(self.tasks, now)
        return response

    def _add_texts(self, recommender: Recommender, texts: Sequence[str]) -> Iterator[float]:
        checked = [_checked(text, "TEXT", n, self._services.limits) for n, text in enumerate(texts)]
        self._check_size(len(texts), recommender.bundle.manifest.dimensions)
        return self.add_texts(recommender, checked, self._asked.priority)

    def _add_requests(self, recommender: Recommender, inputs: dict[str, Tensor]) -> Iterator[float]:
        requests = self._requests(inputs)
        self._width = max(request.top_k for request in requests)
        self._check_size(len(requests), self._width)
        _check_totals(requests, self._width, self._services.limits)
        for request in requests:
            self.add(recommender, [recommender.resolve(request)], "ranker", self._asked.priority)
            yield len(self.tasks) / len(requests)

    def _check_size(self, rows: int, columns: int) -> None:
        """Refuse what is too large before the models run: each element, a text too, has four bytes or more."""
        whole_outputs = sum(k == 0 for k in self._outputs.values())
        self._services.sizes.check_response(FLOAT_BYTES * whole_outputs * rows * columns)

    def _ranked(self) -> dict[str, Output]:
        """Ids and scores, padded to the largest K.

        Raises:
            SwiftrecError: the first error that a row met.
        """
        answers: list[Recommendation] = []
        for task in self.tasks:
            answer = task.recommender.answer(cast("RequestState", task.state))
            if isinstance(answer, SwiftrecError):
                raise answer
            self._services.metrics.observe_steps(answer.timings)
            answers.append(answer)
        ids = [[item.id.encode() for item, _ in answer.items] for answer in answers]
        scores = np.full((len(answers), self._width), -np.inf, dtype=np.float32)
        for row, answer in zip(scores, answers, strict=True):
            row[: len(answer.items)] = [score for _, score in answer.items]
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
            row = [(place, events[place]) for place in range(n * width, (n + 1) * width) if events[place]]
            requests.append(
                Request(
                    history=tuple(_event(text, place, self._services.limits) for place, text in row),
                    query=_checked(queries[n], "QUERY", n, self._services.limits) if queries[n] else "",
                    top_k=sizes[n],
                    exclude_history=self._asked.exclude_history,
                    priority=self._asked.priority,
                )
            )
        return requests


class StreamedInference(Inference):
    """One message of `ModelStreamInfer`; an error concerns its own message only."""

    def respond(self, now: float) -> bytes:
        """The outputs, as a message of the stream."""
        return self._services.sizes.encode(pb.ModelStreamInferResponse(infer_response=self._response(now)))

    def fail(self, error: SwiftrecError) -> Reply:
        """A message of the stream that says it, with the name and the id of the request."""
        try:
            asked = pb.ModelInferRequest.FromString(self.ticket.message)
        except DecodeError:
            asked = pb.ModelInferRequest()
        response = pb.ModelInferResponse(model_name=asked.model_name, id=asked.id)
        text = sentence(_in_tritons_words(error))
        data: bytes = pb.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
        return data


def inference_methods(services: Services, repository: ModelRepository) -> dict[str, Callable[[Ticket, float], Work]]:
    """What makes the work of a call, by the full name of its method."""
    service = "/inference.GRPCInferenceService"
    return {
        f"{service}/ModelInfer": partial(Inference, services, repository),
        f"{service}/ModelStreamInfer": partial(StreamedInference, services, repository),
    }


def _in_tritons_words(error: SwiftrecError) -> SwiftrecError:
    return DeadlineExceeded("Request timeout expired") if isinstance(error, DeadlineExceeded) else error


def _check_totals(requests: Sequence[Request], width: int, limits: InputLimits) -> None:
    """Refuse too many items or events in one request; each row of the outputs has `width` items, the largest K."""
    try:
        check_items(len(requests) * width, "K", limits)
        check_events(sum(len(request.history) for request in requests), "HISTORY", limits)
    except InvalidRequest as error:
        raise InvalidInput(error.field, f"input '{error.field}' {error.reason}") from None


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


def _outputs(request: pb.ModelInferRequest, spec: ModelSpec) -> dict[str, int]:
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
