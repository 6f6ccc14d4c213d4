"""The tensors of a checkpoint: one safetensors file, or several with an index. Pickled weights are never read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from swiftrec.export.checkpoints.fields import read_object
from swiftrec.export.errors import CheckpointError

StateDict = dict[str, Tensor]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WEIGHT_NAMES = (".weight", ".bias")  # others are tables of ids from old versions


def has_weights(folder: Path) -> bool:
    """Whether `folder` has weights in safetensors, in one file or in several."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def read_weights(folder: Path) -> StateDict:
    """The tensors in `folder`: those of the single file if it exists, else of the files in the index.

    Raises:
        CheckpointError: a file is missing or damaged, or a number in it is not finite.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return read_tensors(folder / WEIGHTS)
    index = folder / INDEX
    files = read_object(index, {"weight_map": dict}).get("weight_map") or {}
    tensors: StateDict = {}
    for name in dict.fromkeys(files.values()):
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{index}: weight_map names the file {name!r}, needs to be one in this folder: fix it"
            )
        tensors |= read_tensors(folder / name)
    if missing := [name for name in files if name not in tensors]:
        raise CheckpointError(f"{index}: no file holds {missing[0]}: save the checkpoint again, whole")
    return tensors


def read_tensors(path: Path) -> StateDict:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: it is missing or damaged, or a weight in it is quantised or not finite.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): save it again") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS and name.endswith(_WEIGHT_NAMES):
            kind, known = str(tensor.dtype), ", ".join(map(str, _FLOATS))
            raise CheckpointError(
                f"{path}: {name} is {kind}, supported are {known}: use a checkpoint that is not quantised"
            )
        if tensor.dtype in _FLOATS and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {name} has a number that is NaN or infinite: use a checkpoint without such numbers"
            )
    return tensors
