"""The modules of a sentence-transformers folder: where they are, what each may be, and the fields of each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from swiftrec.export.checkpoints.checkpoint import locate, write_bert
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.encoder import load_tokenizer
from tests.export.bi_encoders import (
    ABSENT,
    DENSE,
    MAIN,
    POOLING,
    SENTENCE,
    TOKENS,
    bi_encoder,
    change,
    require_same,
    written,
)
from tests.export.checkpoints import HIDDEN


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bi_encoder(tmp_path_factory.mktemp("fields") / "plain")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bi_encoder(tmp_path_factory.mktemp("fields") / "dense", dense=7)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, ""),
        ({"activation_function": "torch.nn.modules.activation.GELU"}, ""),
        ({"activation_function": "torch.nn.modules.linear.Identity", "module_output_name": None}, ""),
        ({"activation_function": ABSENT}, ""),
        ({"activation_function": "torch.nn.modules.activation.SiLU"}, "activation_function"),
        ({"activation_function": "own.Tanh"}, "activation_function"),
        ({"activation_function": None}, "activation_function"),
        ({"in_features": HIDDEN + 1}, "in_features"),
        ({"bias": False}, "bias"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
        ({"module_output_name": "elsewhere"}, "module_output_name"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_field_of_a_dense_layer_is_honoured_or_refused(
    dense: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "given"))
    change(folder, DENSE, fields)
    if not named:
        require_same(folder)
        return
    with pytest.raises(CheckpointError) as caught:
        written(folder)
    assert str(caught.value).startswith(f"{folder / DENSE}: ")
    assert named in str(caught.value)


@pytest.mark.parametrize("kind", ["own.Pooling", "sentence_transformers.models.LSTM", "../Pooling"])
def test_module_of_another_kind_or_place_is_refused(plain: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1] |= {"path": kind} if kind.startswith("..") else {"type": kind}
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"modules.json: .*(is not known here|is outside the folder)"):
        written(folder)


def test_field_of_a_module_is_known_or_refused(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["kwargs"] = ["task"]  # of encode(), which passes none by default
    (folder / "modules.json").write_text(json.dumps(modules))
    require_same(folder)
    shutil.rmtree(tmp_path / "given-as-bert")
    modules[1]["surprise"] = 1
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"modules.json: the field surprise \(1\) is not supported"):
        written(folder)


def test_folder_saved_again_by_the_installed_version_gives_the_same_vectors(dense: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(dense), device="cpu", local_files_only=True).save(str(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / POOLING).read_text())["pooling_mode"] == "mean"
    assert "base.modules" in (tmp_path / "again" / "modules.json").read_text()
    require_same(tmp_path / "again")


def test_encoder_is_read_from_the_folder_that_its_module_names(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", MAIN):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"path": inner.name}, *modules[1:]]))
    change(inner, SENTENCE, {"do_lower_case": True})
    change(inner, TOKENS, {"do_lower_case": False})
    require_same(folder)
    out = tmp_path / "base"
    write_bert(locate(str(folder), folder, folder), out, adopt=False, max_tokens=128)
    ids = load_tokenizer(out, 128).encode(["RED Lamp", "red lamp"])
    assert ids[0] == ids[1]


def test_pickled_weights_are_not_read(dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "given"))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"2_Dense/model.safetensors: cannot be read"):
        written(folder)
