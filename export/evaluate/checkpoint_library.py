"""A checkpoint in its own library: the reference for vectors and rankings of the export.

sentence-transformers runs bi-encoders and plain encoders, transformers runs classifiers, and this project runs
teachers of earlier exports. They read every file and field of the folder, so an unsupported field changes the vectors.
Nothing is fetched, no code of the folder is run, and weights are safetensors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers import __version__ as st_version
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding, PreTrainedModel
from transformers import __version__ as transformers_version

from swiftrec.export.checkpoints.families import bert_config, read_config
from swiftrec.export.checkpoints.formats import CLASSIFIERS, CheckpointKind, backbone_folder, is_own
from swiftrec.export.checkpoints.quiet import first_line, quiet
from swiftrec.export.checkpoints.sentence_transformers import is_bi_encoder
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.models.teacher import load_teacher

_BATCH = 32
ResultT = TypeVar("ResultT")


class ReferenceModel(Protocol):
    """An adopted checkpoint in its own library."""

    library: str
    """Name and version."""

    def encode(self, texts: list[str]) -> Tensor:
        """Vectors, float32 [texts, width]; for a classifier the input of its last layer, with 1 appended."""

    def scores(self, texts: list[str], items: list[str], labels: list[str]) -> Tensor:
        """Scores [texts, items] of the items with the texts `items` and the ids `labels`."""


def load_in_library(folder: Path, kind: CheckpointKind, max_tokens: int) -> ReferenceModel:
    """Load an adopted checkpoint in its own library; `max_tokens` applies only to a teacher of an earlier export.

    Raises:
        CheckpointError: its library cannot load it.
    """
    if is_own(folder):
        return _EarlierTeacher(folder, max_tokens)
    model: type[_Classifier | _BiEncoder] = _Classifier if kind == "classifier" else _BiEncoder
    return _run(folder, lambda: model(folder))


def vectors_by_library(folder: Path, kind: CheckpointKind, texts: list[str], max_tokens: int, *, adopt: bool) -> Tensor:
    """Vectors of `texts` by the checkpoint's own library, [texts, width]: with its head if `adopt` is set.

    Without the head, the vector of a text is the mean of its token vectors.

    Raises:
        CheckpointError: the library cannot run the checkpoint.
    """
    if adopt:
        model = load_in_library(folder, kind, max_tokens)
        return _run(folder, lambda: model.encode(texts))
    return _run(folder, lambda: _token_means(folder, texts))


def _token_means(folder: Path, texts: list[str]) -> Tensor:
    whole = SentenceTransformer(modules=[_transformer(folder)], device="cpu", local_files_only=True)
    rows = whole.encode(texts, output_value="token_embeddings", batch_size=_BATCH, show_progress_bar=False)
    return torch.stack([row.mean(0) for row in rows])


def _transformer(folder: Path) -> Transformer:
    model, options = {"local_files_only": True, "use_safetensors": True}, {"local_files_only": True}
    if not is_bi_encoder(folder):
        plain: Transformer = Transformer(
            str(folder), model_kwargs=model, processor_kwargs=options, config_kwargs=options
        )
        return plain
    inner = backbone_folder(folder).relative_to(folder)
    loaded: Transformer = Transformer.load(
        str(folder), subfolder="" if inner == Path() else str(inner), local_files_only=True, model_kwargs=model
    )
    return loaded


def _positions(folder: Path) -> int:
    """The encoder's number of positions, which some tokenizers do not have."""
    file = backbone_folder(folder) / "config.json"
    return int(bert_config(read_config(file), file)["max_position_embeddings"])


class _BiEncoder:
    library = f"sentence-transformers {st_version}"

    def __init__(self, folder: Path) -> None:
        self._model = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        self._model.max_seq_length = min(self._model.max_seq_length or _positions(folder), _positions(folder))

    def encode(self, texts: list[str]) -> Tensor:
        vectors: Tensor = self._model.encode(texts, batch_size=_BATCH, convert_to_tensor=True, show_progress_bar=False)
        return vectors

    def scores(self, texts: list[str], items: list[str], labels: list[str]) -> Tensor:  # noqa: ARG002 (for classifiers)
        scores: Tensor = self._model.similarity(self.encode(texts), self.encode(items))
        return scores


class _Classifier:
    library = f"transformers {transformers_version}"

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True, trust_remote_code=False
        )
        self._model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).eval()
        self._longest = min(self._tokenizer.model_max_length, _positions(folder))
        _, last, _ = CLASSIFIERS[self._model.config.model_type]
        self._features: list[Tensor] = []
        self._model.get_submodule(last).register_forward_pre_hook(lambda _, inputs: self._features.append(inputs[0]))

    def encode(self, texts: list[str]) -> Tensor:
        self._logits(texts)
        features = torch.cat(self._features)
        return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)

    def scores(self, texts: list[str], items: list[str], labels: list[str]) -> Tensor:  # noqa: ARG002 (for bi-encoders)
        row = {str(label): int(number) for number, label in (self._model.config.id2label or {}).items()}
        return self._logits(texts)[:, [row[label] for label in labels]]

    def _logits(self, texts: list[str]) -> Tensor:
        """Logits [texts, labels]; afterwards `_features` has the inputs of the last layer for each batch."""
        self._features.clear()
        parts = [texts[n : n + _BATCH] for n in range(0, len(texts), _BATCH)]
        with torch.inference_mode():
            return torch.cat([self._model(**self._tokens(part)).logits for part in parts])

    def _tokens(self, texts: list[str]) -> BatchEncoding:
        tokens: BatchEncoding = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        )
        return tokens


class _EarlierTeacher:
    library = "the export that made it"

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._teacher = load_teacher(folder)
        self._encoder = TextEncoder(load_bert(folder / "checkpoint"), 1).eval()
        self._tokenizer = load_tokenizer(folder / "checkpoint", max_tokens)

    def encode(self, texts: list[str]) -> Tensor:
        rows = self._tokenizer.encode(texts)
        parts = [rows[n : n + _BATCH] for n in range(0, len(rows), _BATCH)]
        with torch.inference_mode():
            return torch.cat([self._teacher.text_vectors(self._encoder.pool(*pad(part))) for part in parts])

    def scores(self, texts: list[str], items: list[str], labels: list[str]) -> Tensor:  # noqa: ARG002 (for classifiers)
        return self.encode(texts) @ self.encode(items).T


def _run(folder: Path, call: Callable[[], ResultT]) -> ResultT:
    try:
        with quiet():
            return call()
    except Exception as error:  # each model class raises other errors
        raise CheckpointError(
            f"{folder}: the checkpoint's own library cannot run it ({first_line(error)}): save it again"
        ) from error
