"""The tokenizer of a checkpoint as one file, as AutoTokenizer builds it from all files of the folder.

`tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` override `tokenizer.json` by rules of each
tokenizer class, so transformers loads the folder and the resulting tokenizer is written. Settings that one file cannot
express are refused by name, and the ids of some texts are compared.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import Lowercase, Sequence
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from swiftrec.export.checkpoints.families import check_config
from swiftrec.export.checkpoints.fields import read_object
from swiftrec.export.checkpoints.quiet import first_line, quiet
from swiftrec.export.errors import CheckpointError
from swiftrec.server.models.tokenizer import Tokenizer

_OTHER = "use a checkpoint with that value"
_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_SOURCES = (_FILE, "vocab.txt", "vocab.json", "*.model")  # every tokenizer has one of these
_TEXTS = (
    *(
        "The Quick brown-fox, 12.5 kg!",
        "RED lamp",
        "Crème Brûlée ÉTÉ Straße",
        "don't (re-do) it: #5 @ home",
        "İzmir ΣΑΣ",
    ),
    *(
        "北京 の ラーメン 5分",
        "a\u200bb\u00a0c\td\ne \u2028 f",
        "  two  blanks  ",
        "naïve cafe\u0301 🙂 x",
        "Ünïcödé_under-score",
    ),
)
_PIECES = 24  # word pieces of the vocabulary in the compared texts
_EXAMPLE_TOKENS = 600


@dataclass(frozen=True, slots=True)
class TokenizerUse:
    """How the model uses the tokenizer.

    Args:
        vocabulary: the number of ids that the model has vectors for.
        padding: the model's padding id, or None if any id is fine.
        lower: whether texts are lower-cased first (`do_lower_case` of sentence-transformers).
    """

    vocabulary: int
    padding: int | None = None
    lower: bool = False


def write_tokenizer(folder: Path, target: Path, use: TokenizerUse, max_tokens: int) -> int:
    """Write the tokenizer of `folder` to `target`; return the checkpoint's maximum number of tokens of a text.

    Raises:
        CheckpointError: there is none, or a single file and the server's encoding cannot express it.
    """
    fast = _load(folder)
    _check_fields(fast, folder)
    if use.padding is not None and fast.pad_token_id != use.padding:
        raise CheckpointError(
            f"{folder / 'config.json'}: pad_token_id is {use.padding}, the tokenizer pads with {fast.pad_token_id}: "
            "positions are counted from it, so give both the same"
        )
    if use.lower:
        _lower_case(fast.backend_tokenizer)
    target.write_text(_as_file(fast, folder, use.vocabulary), encoding="utf-8")
    _check_ids(fast, target, folder, max_tokens, use.vocabulary)
    return int(fast.model_max_length)


def probes(tokenizer: Backend) -> list[str]:
    """Texts that show differences between tokenizers: case, accents, scripts, blanks, and pieces of the vocabulary."""
    pieces = sorted(
        piece.removeprefix("##") for piece in tokenizer.get_vocab() if "[" not in piece and "<" not in piece
    )
    chosen = [piece for piece in pieces[:: 1 + len(pieces) // _PIECES] if piece.strip()]
    return [*_TEXTS, " ".join(chosen), " ".join(chosen).title(), *(piece.upper() for piece in chosen[::4])]


def _load(folder: Path) -> PreTrainedTokenizerFast:
    file = folder / _FILE
    if file.exists():
        read_tokenizer(file)
    if (folder / _CONFIG).exists():
        read_object(folder / _CONFIG, {"model_max_length": float})
    check_config(folder)
    if not any(path for pattern in _SOURCES for path in folder.glob(pattern)):
        named = ", ".join(_SOURCES)
        raise CheckpointError(f"{folder}: holds no tokenizer (none of {named}): put its tokenizer.json there")
    try:
        with quiet():
            fast = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                folder,
                use_fast=True,
                local_files_only=True,
                trust_remote_code=False,  # code in the folder is never run
            )
    except Exception as error:  # each tokenizer class raises other errors
        said = first_line(error)
        raise CheckpointError(f"{folder}: no tokenizer can be read ({said}): put its tokenizer.json there") from error
    if not isinstance(fast, PreTrainedTokenizerFast):
        kind = type(fast).__name__
        raise CheckpointError(f"{folder}: no tokenizer.json can be made of its {kind}: put its tokenizer.json there")
    return fast


def read_tokenizer(file: Path) -> Backend:
    """Read a tokenizer.json.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return Backend.from_file(str(file))
    except Exception as error:
        raise CheckpointError(f"{file}: cannot be read ({first_line(error)}): save it again") from error


def _check_fields(fast: PreTrainedTokenizerFast, folder: Path) -> None:
    """Refuse settings that tokenizer.json cannot express or that differ from the server's."""
    config = read_object(folder / _CONFIG) if (folder / _CONFIG).exists() else {}
    for name, supported in {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False}.items():
        if (value := getattr(fast, name)) != supported:
            file = folder / (_CONFIG if name in config else _FILE)
            raise CheckpointError(f"{file}: {name} is {value!r}, supported is {supported!r}: {_OTHER}")
    if "attention_mask" not in (inputs := fast.model_input_names):
        raise CheckpointError(
            f"{folder / _CONFIG}: model_input_names is {inputs}, needs attention_mask, too: use a checkpoint whose "
            "tokenizer makes it"
        )
    if any(_encode(fast, folder, "a b", return_token_type_ids=True)["token_type_ids"]):
        raise CheckpointError(
            f"{folder / _FILE}: post_processor gives a text a token type other than 0, supported is 0: {_OTHER}"
        )


def _encode(fast: PreTrainedTokenizerFast, folder: Path, text: str, **options: Any) -> BatchEncoding:  # noqa: ANN401
    try:
        encoding: BatchEncoding = fast(text, **options)
    except Exception as error:  # a damaged vocabulary is found only now
        said = first_line(error)
        raise CheckpointError(f"{folder}: its tokenizer cannot encode a text ({said}): save it again") from error
    return encoding


def _lower_case(backend: Backend) -> None:
    """Lower-case texts first, unless the tokenizer does so already, as sentence-transformers does."""
    normalizer = backend.normalizer
    steps = list(normalizer) if isinstance(normalizer, Sequence) else [] if normalizer is None else [normalizer]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])


def _as_file(fast: PreTrainedTokenizerFast, folder: Path, vocabulary: int) -> str:
    """The tokenizer as tokenizer.json, without padding and truncation, which the caller applies."""
    backend = Backend.from_str(fast.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    fields = json.loads(backend.to_str())
    named = read_tokenizer(folder / _FILE).get_vocab() if (folder / _FILE).exists() else {}
    assumed = _assumed_tokens(type(fast)) - named.keys()
    fields["added_tokens"] = [
        token for token in fields["added_tokens"] if token["id"] < vocabulary or token["content"] not in assumed
    ]
    highest = max((*_ids(fields["model"]), *(token["id"] for token in fields["added_tokens"])), default=0)
    if highest >= vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has id {highest}, the model has {vocabulary} ids: they are not from the same "
            "checkpoint"
        )
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _assumed_tokens(kind: type[PreTrainedTokenizerFast]) -> set[str]:
    """Special tokens that the class adds by default; those without a vector in the model are not used."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    single = [value for name, value in defaults.items() if name.endswith("_token") and isinstance(value, str)]
    return {*single, *map(str, defaults.get("additional_special_tokens") or ())}


def _ids(model: dict[str, Any]) -> Iterable[int]:
    """The ids of a tokenizer.json's vocabulary, which is {piece: id} or (Unigram) a list."""
    vocabulary = model["vocab"]
    return vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))


def _check_ids(fast: PreTrainedTokenizerFast, target: Path, folder: Path, max_tokens: int, vocabulary: int) -> None:
    """Check that the server's token ids of some texts, one of them too long, are those of AutoTokenizer."""
    added = fast.backend_tokenizer.get_added_tokens_decoder().items()
    texts = probes(fast.backend_tokenizer)
    texts += [f"a {token.content} b" for number, token in added if number < vocabulary]
    texts.append(" ".join(texts * (1 + _EXAMPLE_TOKENS // len(" ".join(texts).split()))))
    served = Tokenizer.load(target, max_tokens).encode(texts)
    for text, ids in zip(texts, served, strict=True):
        if ids != _encode(fast, folder, text, truncation=True, max_length=max_tokens)["input_ids"]:
            raise CheckpointError(
                f"{folder}: the text {text[:60]!r} gets other token ids than by AutoTokenizer: save the tokenizer "
                "again with save_pretrained, or use another checkpoint"
            )
