"""How the teacher is trained: every setting once, as `export.config` wants it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from pydantic_settings import BaseSettings

FROZEN, ALL = "frozen", "all"
_ENCODED = {"after": 64, "along": 32}  # texts a batch; along with the rest it reads histories, too
FULL_ITEMS = 20_000  # up to which the loss looks at every item


class TrainingSettings(BaseSettings):
    """The fields of the stage `finetune`; a preset may have its own values for those that are not given."""

    trunk: Annotated[str, StringConstraints(pattern=r"^(frozen|all|[1-9][0-9]?)$")] = Field(
        FROZEN,
        description="what of BERT moves: 'frozen' (fastest; good with few interactions), the last K layers (a number: "
        "when text-only requests matter), 'all' (a GPU, or texts unlike those that the checkpoint has read)",
    )
    moves: Literal["after", "along"] = Field(
        "after",
        description="when BERT's layers move: 'after' the rest is trained, towards the items' vectors (fast and "
        "steady), or 'along' with it (slow: for a GPU, with --trunk-learning-rate 2e-5)",
    )
    passes: int = Field(
        3,
        ge=1,
        description="passes over all texts while BERT's layers move after the rest: more when text-only requests "
        "matter",
    )
    lora: int = Field(
        0,
        ge=0,
        le=256,
        description="rank of LoRA matrices instead of whole layers of the trunk, 0 for none: for 'all' in little "
        "memory, or when so few texts are there that whole layers forget",
    )
    epochs: int = Field(0, ge=0, description="passes over the histories; 0: the preset's; more for little data")
    batch: int = Field(16, ge=1, description="windows of histories a batch: larger on a GPU")
    accumulate: int = Field(1, ge=1, description="batches a step of the optimiser: for large batches in little memory")
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw nearly always; sgd (momentum .9) wants a higher rate"
    )
    learning_rate: float = Field(
        2e-3, gt=0, description="peak for projection, residuals and ranker: lower if the curve jumps"
    )
    trunk_learning_rate: float = Field(
        5e-4, gt=0, description="peak for BERT's layers: a fifth of it for 'all', 2e-5 where they move along"
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the steps in which the rate rises; then it falls to 0: more for high rates",
    )
    weight_decay: float = Field(0.05, ge=0, description="of projection and ranker: more for little data")
    trunk_weight_decay: float = Field(
        0.01, ge=0, description="of BERT's layers: more when few texts are there and 'all' of it moves"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="in the ranker: more for little data")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="average the weights with this decay, 0 for none: .99 where the curve is noisy (few users)",
    )
    texts_per_step: int = Field(
        0,
        ge=0,
        description="texts that a batch encodes, with gradient, where BERT moves; 0: 64 after the rest, 32 along with "
        "it: more on a GPU",
    )
    ranker: Literal["transformer", "gru", "mlp"] = Field(
        "transformer",
        description="transformer for the best order; gru when histories are long and requests few; mlp for the "
        "smallest and fastest, where the order of events says little",
    )
    loss: Literal["auto", "softmax", "sampled", "mse"] = Field(
        "auto",
        description="softmax over all items that somebody took; sampled (with logQ correction) for large catalogues; "
        f"auto: softmax up to {FULL_ITEMS:,} items, sampled beyond; mse for ratings: scores near 1 for what is rated "
        "highest (or taken, where nothing is rated), lower for the rest that is taken, near 0 else",
    )
    negatives: int = Field(
        512, ge=1, description="items that a step draws for sampled and mse: more for larger catalogues"
    )
    pull: float = Field(
        0.0,
        ge=0,
        description="weight with which each text is drawn to its item's vector, 0 for none: for requests that know an "
        "item only by its text",
    )
    patience: int = Field(
        0,
        ge=0,
        description="stop after this many epochs without a better validation NDCG@10; 0: never. The best epoch is kept "
        "with any value: use it to save time with more --epochs than are needed",
    )
    augment: int = Field(
        0, ge=0, description="more ways to write each item, with typos and lost or swapped words: for users who type"
    )
    synonyms: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the words in these more ways that are exchanged for words which stand in the same places "
        "of the catalogue: for long descriptions, asked for in other words; titles alone teach nothing",
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        description="length of an adversarial step (FGM) on the word embeddings where BERT moves, on the pooled text "
        "vectors where it does not, relative to theirs, 0 for none: try --augment first, which gave more for typing "
        "errors at less time (docs/export.md)",
    )
    teachers: int = Field(
        1,
        ge=1,
        le=9,
        description="teachers whose averaged answers train one more, which is kept: for the last percent, at N + 1 "
        "times the time",
    )
    train_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where the teacher is trained: cuda for --trunk all, --moves along or 100,000 items and more"
    )
    mixed_precision: bool = Field(False, description="train in bfloat16 where it is safe: on a GPU")

    @property
    def encoded(self) -> int:
        """How many texts a batch encodes with gradient."""
        return self.texts_per_step or _ENCODED[self.moves]

    @property
    def trunk_layers(self) -> int | None:
        """How many of the trunk's last layers move: 0 none, None all."""
        if self.trunk == ALL:
            return None
        return 0 if self.trunk == FROZEN else int(self.trunk)


TRAINING = tuple(TrainingSettings.model_fields)
