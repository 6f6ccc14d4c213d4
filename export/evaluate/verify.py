"""Stage `verify`: the bundle's files through the server's own tokenizer and sessions, against the teacher."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.compress.students import students
from export.data.dataset import Dataset
from export.data.phrases import Texts
from export.data.split import Split, leave_one_out
from export.errors import GateError
from export.evaluate.baselines import all_baselines
from export.evaluate.metrics import Figure, figure, ndcg, top
from export.evaluate.subject import Subject, Vectors, torch_rank
from export.evaluate.table import show
from export.stage import Job
from export.train.encoder import TextEncoder, load_tokenizer, load_trunk, pad
from export.train.teacher import Bank, Teacher, load_teacher
from export.variants import Variant, load_variants
from server.models.encoder import EncoderModel
from server.models.ranker import RankerModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

MAX_PARITY = 1e-4  # largest difference of a vector's entries, ONNX fp32 against PyTorch
_BATCH = 16
_SAMPLE = 32  # users whose answers the packaged bundle must repeat


def run(job: Job, out: Path) -> None:
    """Write quality.json, expected.json and vectors.npy (the catalogue's item vectors, float32 [items, d]).

    Raises:
        GateError: a gate failed; no bundle is written.
    """
    data = job.folder("data")
    dataset, texts, teacher = Dataset.load(data), Texts.load(data), load_teacher(job.folder("finetune"))
    split = leave_one_out(dataset)
    histories = [h[-job.settings.plan.max_history :] for h in split.before_test]
    bank = Bank.of(np.load(job.folder("finetune") / "pooled.npy", allow_pickle=False), texts)
    paths = _variants(job)
    scores: dict[str, Vectors] = {}
    with job.progress("evaluate", 3 + len(paths)) as step:
        probes = _pooled_probes(job, dataset)
        subject = _teacher(teacher, bank, probes)
        step()
        results = _baselines(job, dataset, split, bank, probes)
        step()
        parity = _parity(job, texts)
        step()
        for name, one in _subjects(job, paths, subject, texts, dataset):
            scores[name] = one.from_texts(histories)
            results[name] = {
                "ids": _ndcg(job, one.from_items(histories), split.before_test, split.test),
                "text": _ndcg(job, scores[name], split.before_test, split.test),
                "query": _precision(job, one.from_probes(), dataset),
            }
            if name != "teacher":
                step()
    overlap = {name: _overlap(scores["teacher"], scores[name], split.before_test) for name in paths}
    quality: dict[str, Any] = {
        "protocol": "leave-one-out in time, seen masked, whole catalogue, 95 % bootstrap intervals",
        "parity": parity,
        "top10_overlap": overlap,
        "tasks": {name: {task: asdict(f) for task, f in row.items()} for name, row in results.items()},
        "speed": [asdict(variant) for variant in load_variants(job.folder("quantise"))],
        "passed": passing(job, results, parity, list(paths)),
    }
    show(job.console, results, overlap)
    if "fp32" not in quality["passed"]:
        raise GateError(
            "; ".join(failures(job, results["teacher"], results["fp32"], parity)) + ": no bundle is written"
        )
    np.save(out / "vectors.npy", subject.items, allow_pickle=False)
    default = quality["passed"][-1]
    expected = _expected(dataset, texts, split.before_test[:_SAMPLE], scores[default][:_SAMPLE])
    (out / "expected.json").write_text(json.dumps(expected))
    (out / "quality.json").write_text(json.dumps(quality, indent=1))


def _subjects(
    job: Job, paths: dict[str, Path], teacher: Subject, texts: Texts, dataset: Dataset
) -> Iterator[tuple[str, Subject]]:
    """The teacher, then each variant of the student."""
    yield "teacher", teacher
    for name, path in paths.items():
        yield name, _served(job, path, teacher, texts, dataset)


def _expected(
    dataset: Dataset, texts: Texts, histories: list[NDArray[np.int64]], scores: Vectors
) -> list[dict[str, list[str]]]:
    """What the packaged bundle must answer to some users' texts: the stage after this one asks the whole pipeline."""
    return [
        {
            "texts": [texts.variants[1][n] for n in history],
            "seen": [dataset.items[n].id for n in history],
            "top": [dataset.items[n].id for n in top(row, history)],
        }
        for history, row in zip(histories, scores, strict=True)
    ]


def _variants(job: Job) -> dict[str, Path]:
    folder = job.folder("quantise")
    return {variant.precision: folder / variant.file for variant in default_student(folder)}


def default_student(folder: Path) -> list[Variant]:
    """The variants of the student that is shipped for CPU: three layers, or the first BERT there is."""
    usable = [v for v in load_variants(folder) if v.layers and v.device == "cpu" and not v.refused]
    name = next((v.student for v in usable if v.student == "bert3"), usable[0].student if usable else "")
    return [v for v in usable if v.student == name]


def _pooled_probes(job: Job, dataset: Dataset) -> Tensor:
    """The frozen BERT's pooled vectors of the probes' phrases, [probes, hidden]."""
    folder = job.folder("data") / "checkpoint"
    rows = load_tokenizer(folder, job.settings.plan.max_tokens).encode([p.phrase for p in dataset.probes])
    encoder = TextEncoder(load_trunk(folder), 1).eval()
    with torch.inference_mode():
        return encoder.pool(*pad(rows)) if rows else torch.zeros(0, encoder.projection.in_features)


def _teacher(teacher: Teacher, bank: Bank, probes: Tensor) -> Subject:
    with torch.inference_mode():
        items = (teacher.text_vectors(bank.variants[0]) + teacher.residual).numpy()
        titles = teacher.text_vectors(bank.variants[1]).numpy()
        return Subject(items, titles, teacher.text_vectors(probes).numpy(), torch_rank(teacher))


def _baselines(job: Job, dataset: Dataset, split: Split, bank: Bank, probes: Tensor) -> dict[str, dict[str, Figure]]:
    """Every baseline on ids, and on text and query those that can read them."""
    items, titles, asked = (unit(v) for v in (bank.variants[0], bank.variants[1], probes))
    seen, wanted = split.before_test, split.test
    scores = all_baselines(seen, items)
    results = {name: {"ids": _ndcg(job, scored, seen, wanted)} for name, scored in scores.items()}
    popular = np.broadcast_to(scores["popularity"][0], (len(asked), len(items)))
    results["popularity"] |= {"text": results["popularity"]["ids"], "query": _precision(job, popular, dataset)}
    nearest = np.stack([titles[history].mean(0) for history in seen]) @ items.T
    results["frozen encoder"] |= {
        "text": _ndcg(job, nearest, seen, wanted),
        "query": _precision(job, asked @ items.T, dataset),
    }
    return results


def unit(vectors: Tensor) -> Vectors:
    """Scaled to length 1."""
    scaled: Vectors = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    return scaled


def _served(job: Job, path: Path, teacher: Subject, texts: Texts, dataset: Dataset) -> Subject:
    """The files as the server runs them."""
    tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
    model = EncoderModel(open_session(path))
    ranker = RankerModel(open_session(job.folder("onnx") / "ranker.onnx"), teacher.items.shape[1])
    titles = _encode(model, tokenizer, texts.variants[1])
    probes = _encode(model, tokenizer, [p.phrase for p in dataset.probes])
    return Subject(teacher.items, titles, probes, lambda sequences: np.array(ranker.run(sequences)))


def _encode(model: EncoderModel, tokenizer: Tokenizer, texts: list[str]) -> Vectors:
    rows = tokenizer.encode(texts)
    return np.array([v for n in range(0, len(rows), _BATCH) for v in model.run(rows[n : n + _BATCH])])


def _parity(job: Job, texts: Texts) -> float:
    """Largest difference between the student in PyTorch and its fp32 graph, over the items' texts."""
    name = default_student(job.folder("quantise"))[0].student
    student = students(job)[name]
    rows = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens).encode(
        texts.variants[0][:512]
    )
    model = EncoderModel(open_session(_variants(job)["fp32"]))
    with torch.inference_mode():
        return max(
            float(np.abs(np.array(model.run(batch)) - student(*pad(batch)).numpy()).max())
            for batch in (rows[n : n + _BATCH] for n in range(0, len(rows), _BATCH))
        )


def _ndcg(job: Job, scores: Vectors, seen: list[NDArray[np.int64]], wanted: NDArray[np.int64]) -> Figure:
    rows = zip(scores, seen, wanted.tolist(), strict=True)
    return figure([ndcg(s, h, w) for s, h, w in rows], job.settings.seed)


def _precision(job: Job, scores: Vectors, dataset: Dataset) -> Figure:
    """Share of the top ten that carries what the probe asks for, averaged over probes."""
    nothing = np.empty(0, np.int64)
    shares = [
        np.mean([probe.value in dataset.items[n].attributes.get(probe.attribute, []) for n in top(row, nothing)])
        for row, probe in zip(scores, dataset.probes, strict=True)
    ]
    return figure([float(s) for s in shares] or [0.0], job.settings.seed)


def _overlap(a: Vectors, b: Vectors, seen: list[NDArray[np.int64]]) -> float:
    return float(np.mean([len({*top(x, h)} & {*top(y, h)}) / 10 for x, y, h in zip(a, b, seen, strict=True)]))


def failures(job: Job, teacher: dict[str, Figure], variant: dict[str, Figure], parity: float) -> list[str]:
    """The gates that a variant fails, each with its value and its threshold."""
    settings = job.settings
    failed = [] if parity <= MAX_PARITY else [f"parity with PyTorch {parity:.1e}, at most {MAX_PARITY:.0e}"]
    for task, share in (("text", settings.min_text_retained), ("query", settings.min_query_retained)):
        if variant[task].mean < share * teacher[task].mean:
            kept = variant[task].mean / teacher[task].mean
            failed.append(f"{task} keeps {kept:.3f} of the teacher's, at least {share:.3f} (--min-{task}-retained)")
    return failed


def passing(job: Job, results: dict[str, dict[str, Figure]], parity: float, names: list[str]) -> list[str]:
    """The variants that pass every gate; int8 must also lose nothing measurable on text against fp32."""
    passed = [n for n in names if not failures(job, results["teacher"], results[n], parity)]
    if "int8" in passed and results["int8"]["text"].mean < 0.98 * results["fp32"]["text"].mean:
        passed.remove("int8")
    return passed
