"""NVIDIA's clients against a live server, in a process of their own: sync, async, asyncio and streaming.

Run as `python -m tests.integration.triton_clients HOST:PORT BUNDLE`; prints "all clients passed" and exits 0.
"""

from __future__ import annotations

import asyncio
import queue
import sys
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

_LONG = 30.0


def texts(name: str, rows: list[list[str]]) -> triton.InferInput:
    values = np.array(rows, dtype=object)
    tensor = triton.InferInput(name, list(values.shape), "BYTES")
    tensor.set_data_from_numpy(values)
    return tensor


def numbers(name: str, rows: list[list[int]]) -> triton.InferInput:
    values = np.array(rows, dtype=np.int32)
    tensor = triton.InferInput(name, list(values.shape), "INT32")
    tensor.set_data_from_numpy(values)
    return tensor


def expected() -> list[triton.InferInput]:
    return [
        texts("QUERY", [["animated films for children"], ["a good western"]]),
        texts("HISTORY", [["50", "text:Toy Story (1995)"], ["1", ""]]),
        numbers("K", [[5], [3]]),
    ]


def check_answer(result: Any) -> None:  # noqa: ANN401 (tritonclient ships no types)
    ids, scores = result.as_numpy("ITEM_ID"), result.as_numpy("SCORE")
    assert ids.shape == scores.shape == (2, 5)
    assert scores.dtype == np.float32
    assert all(ids[0])
    assert list(ids[1, 3:]) == [b"", b""]
    assert np.isneginf(scores[1, 3:]).all()
    assert (np.diff(scores[0]) <= 0).all()


def refused(text: str, call: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **options)
    assert text in str(caught.value)


def check_server(client: Any, bundle: str) -> None:  # noqa: ANN401
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("encoder")
    version = client.get_model_metadata("encoder").versions[0]
    assert client.is_model_ready(f"{bundle}.recommender", version)
    assert not client.is_model_ready(f"{bundle}.recommender", "999")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "swiftrec"
    for name in ("encoder", "recommender", f"{bundle}.encoder"):
        metadata, config = client.get_model_metadata(name), client.get_model_config(name).config
        assert metadata.name == config.name == name
        assert [int(version) for version in metadata.versions]
        assert {entry.name for entry in config.input} == {entry.name for entry in metadata.inputs}
        assert config.max_batch_size == 256
        assert config.HasField("dynamic_batching")
    refused("Request for unknown model", client.get_model_metadata, "other")
    refused("should be an integer > 0", client.get_model_config, "encoder", "x")
    assert client.get_model_metadata("encoder", as_json=True)["platform"] == "onnxruntime_onnx"


def check_infer(client: Any) -> None:  # noqa: ANN401
    vectors = client.infer("encoder", [texts("TEXT", [["a good western"], ["Toy Story"]])], request_id="7")
    assert vectors.get_response().id == "7"
    assert vectors.as_numpy("EMBEDDING").shape == (2, 128)
    check_answer(client.infer("recommender", expected(), priority=1, timeout=5_000_000))
    outputs = [triton.InferRequestedOutput("SCORE", class_count=2), triton.InferRequestedOutput("ITEM_ID")]
    classes = client.infer("recommender", expected(), outputs=outputs)
    value, index, label = classes.as_numpy("SCORE")[0, 0].decode().split(":")
    plain = client.infer("recommender", expected()).as_numpy("SCORE")[0, 0]
    assert float(value) == pytest.approx(plain, abs=1e-4)
    assert int(index) == 0
    assert label == classes.as_numpy("ITEM_ID")[0, 0].decode()
    refused("unexpected inference input", client.infer, "encoder", [texts("NAME", [["x"]])])
    refused("unexpected shape for input 'TEXT'", client.infer, "encoder", [texts("TEXT", [["x", "y"]])])
    refused("Request timeout expired", client.infer, "encoder", [texts("TEXT", [["late"]])], timeout=1)
    refused("reserved", client.infer, "encoder", [texts("TEXT", [["x"]])], parameters={"triton_x": 1})


def check_statistics(client: Any) -> None:  # noqa: ANN401
    def encoder() -> Any:  # noqa: ANN401
        return client.get_inference_statistics("encoder").model_stats[0]

    before = encoder()
    client.infer("encoder", [texts("TEXT", [[f"statistics {n}"] for n in range(7)])])
    after = encoder()
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.queue.count == before.inference_stats.queue.count + 1
    assert after.inference_stats.compute_infer.count == before.inference_stats.compute_infer.count + 1
    assert after.inference_count == before.inference_count + 7
    assert sum(size.batch_size * size.compute_infer.count for size in after.batch_stats) == after.inference_count
    assert len(client.get_inference_statistics().model_stats) == 2


def check_repository(client: Any, bundle: str) -> None:  # noqa: ANN401
    index = client.get_model_repository_index().models
    names = {bundle, f"{bundle}.encoder", f"{bundle}.recommender"}
    assert {entry.name for entry in index if entry.state == "READY"} == {*names, "encoder", "recommender"}
    refused("can be loaded", client.load_model, "other")
    refused("can change max_batch_size, but not backend", client.load_model, bundle, config='{"backend": "x"}')
    client.unload_model(bundle)
    assert not client.is_model_ready("encoder")
    assert not client.is_server_ready()
    refused("no bundle", client.infer, "encoder", [texts("TEXT", [["x"]])])
    client.load_model(bundle)
    assert client.is_model_ready("encoder")


def check_settings(client: Any) -> None:  # noqa: ANN401
    assert client.get_trace_settings().settings["trace_level"].value == ["OFF"]
    refused("cannot be changed", client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})
    assert client.get_log_settings().settings["log_info"].bool_param
    assert not client.update_log_settings({"log_info": False}).settings["log_info"].bool_param
    assert client.update_log_settings({"log_info": True}).settings["log_info"].bool_param
    refused("only the log level", client.update_log_settings, {"log_file": "/tmp/x"})  # noqa: S108 (it is refused)


def check_shared_memory(client: Any) -> None:  # noqa: ANN401
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    refused("not supported", client.register_system_shared_memory, "x", "/x", 8)
    refused("not supported", client.register_cuda_shared_memory, "x", b"eA==", 0, 8)


def check_async(client: Any) -> None:  # noqa: ANN401
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(20):
        client.async_infer("recommender", expected(), lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=_LONG)
        assert error is None
        check_answer(result)
    client.async_infer("other", expected(), lambda result, error: answers.put((result, error)))
    assert "unknown model" in str(answers.get(timeout=_LONG)[1])


def check_stream(client: Any) -> None:  # noqa: ANN401
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for n in range(10):
        client.async_stream_infer("recommender", expected(), request_id=str(n), enable_empty_final_response=True)
    for n in range(10):
        result, error = answers.get(timeout=_LONG)
        assert error is None
        assert result.get_response().id == str(n)
        assert result.get_response().parameters["triton_final_response"].bool_param
        check_answer(result)
    client.async_stream_infer("encoder", [texts("NAME", [["x"]])])
    assert "unexpected inference input" in str(answers.get(timeout=_LONG)[1])
    client.async_stream_infer("recommender", expected())
    check_answer(answers.get(timeout=_LONG)[0])
    client.stop_stream()


class Noted:
    """A client that keeps the names of its methods that were used."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401
        self._client = client
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        self.used.add(name)
        return getattr(self._client, name)

    def unused(self) -> set[str]:
        """Its other methods, but those that ask no server."""
        methods = {name for name in dir(type(self._client)) if not name.startswith("_")}
        return methods - self.used - {"close", "plugin", "register_plugin", "unregister_plugin"}


class BlockingClient:
    """The asyncio client with blocking methods, so that both clients pass the same checks."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:  # noqa: ANN401
        self._client, self._loop = client, loop

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        method = getattr(self._client, name)
        return lambda *args, **options: self._loop.run_until_complete(method(*args, **options))


def check_aio_methods(address: str, bundle: str) -> None:
    with asyncio.Runner() as runner:

        async def connect() -> Any:  # noqa: ANN401
            return triton_aio.InferenceServerClient(address)

        noted = Noted(runner.run(connect()))
        client = BlockingClient(noted, runner.get_loop())
        check_all(client, bundle)
        client.close()
        assert noted.unused() == {"stream_infer"}  # which check_aio uses


async def check_aio(address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert (await client.get_model_metadata("encoder")).name == "encoder"
        for result in await asyncio.gather(*[client.infer("recommender", expected()) for _ in range(20)]):
            check_answer(result)

        async def requests() -> Any:  # noqa: ANN401
            for n in range(3):
                yield {"model_name": "recommender", "inputs": expected(), "request_id": str(n)}

        seen = []
        async for result, error in client.stream_infer(requests()):
            assert error is None
            check_answer(result)
            seen.append(result.get_response().id)
        assert seen == ["0", "1", "2"]


def check_all(client: Any, bundle: str) -> None:  # noqa: ANN401
    """What both kinds of client have."""
    check_server(client, bundle)
    check_infer(client)
    check_statistics(client)
    check_settings(client)
    check_shared_memory(client)
    check_repository(client, bundle)


def main(address: str, bundle: str) -> None:
    """Every method of every client."""
    with triton.InferenceServerClient(address) as plain:
        client = Noted(plain)
        check_all(client, bundle)
        check_async(client)
        check_stream(client)
        assert client.unused() == set()
    asyncio.run(check_aio(address))
    check_aio_methods(address, bundle)
    sys.stdout.write("all clients passed\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
