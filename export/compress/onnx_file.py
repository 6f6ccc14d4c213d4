"""Graphs as files that older versions of ONNX Runtime load, too.

A file declares the operator sets that it relies on. ONNX Runtime's optimiser declares every one that it knows, and an
older version refuses a file with an operator set newer than its own, whether the graph uses it or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from swiftrec.export.errors import ExportError

CONTRIB = "com.microsoft"
IR_VERSION = 9  # the newest format that ONNX Runtime 1.16 reads; nothing in these graphs needs a newer one
_CONTRIB_VERSION = 1  # the only one
_STANDARD_NAMES = {"", "ai.onnx"}


def save_graph(model: ModelProto, path: Path) -> None:
    """Write a graph that declares the operator sets it uses, and no other.

    Raises:
        ExportError: it uses an operator set without declaring a version.
    """
    _declare(model, path.name)
    for function in model.functions:
        _declare(function, path.name)
    model.ir_version = min(model.ir_version, IR_VERSION)
    onnx.save(model, path)


def used_domains(model: ModelProto | onnx.FunctionProto) -> set[str]:
    """Domains of all operators, those in subgraphs and functions included; "" is the standard one."""
    if isinstance(model, ModelProto):
        inner = [used_domains(function) for function in model.functions]
        return set(_domains(model.graph.node)).union(*inner)
    return set(_domains(model.node))


def _declare(model: ModelProto | onnx.FunctionProto, name: str) -> None:
    declared = {_standard(opset.domain): opset.version for opset in model.opset_import} | {CONTRIB: _CONTRIB_VERSION}
    used = sorted(used_domains(model))
    if unknown := [domain for domain in used if domain not in declared]:
        raise ExportError(f"{name}: uses operators of {', '.join(unknown)} without the version of that operator set")
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, declared[domain]) for domain in used)


def _domains(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield _standard(node.domain)
        for attribute in node.attribute:
            for graph in _subgraphs(attribute):
                yield from _domains(graph.node)


def _subgraphs(attribute: AttributeProto) -> list[onnx.GraphProto]:
    return [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)


def _standard(domain: str) -> str:
    return "" if domain in _STANDARD_NAMES else domain
