"""How the teacher is trained: every setting once. `export.config` has the other settings of an export."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints
from pydantic_settings import BaseSettings

FROZEN, ALL = "frozen", "all"
FULL_ITEMS = 20_000  # up to this number the loss scores every item


class TrainingSettings(BaseSettings):
    """The fields of the stage `finetune`; a preset may have its own values for those that are not given."""

    RENAMED: ClassVar = {
        "ladder": "students",  # of `ExportSettings`
        "trunk": "backbone_layers",
        "trunk_learning_rate": "backbone_learning_rate",
        "trunk_weight_decay": "backbone_weight_decay",
    }

    backbone_layers: Annotated[str, StringConstraints(pattern=r"^(frozen|all|[1-9][0-9]?)$")] = Field(
        FROZEN,
        description="layers of BERT that are fine-tuned: 'frozen' for none (fastest; enough with few interactions), a "
        "number for the last ones (use when text-only requests matter), or 'all' (use with a GPU, or if your texts "
        "differ from the checkpoint's training data)",
    )
    passes: int = Field(
        3,
        ge=1,
        description="passes over all texts in which BERT is fine-tuned; use more when text-only requests matter",
    )
    lora: int = Field(
        0,
        ge=0,
        le=256,
        description="rank of LoRA matrices, which are trained instead of whole layers, 0 for none; use with 'all' if "
        "memory is short, or if you have too few texts for whole layers",
    )
    epochs: int = Field(0, ge=0, description="training epochs, 0 for the preset's; use more with little data")
    batch: int = Field(16, ge=1, description="windows of histories in a batch; use more on a GPU")
    accumulate: int = Field(
        1, ge=1, description="batches for one step of the optimiser; use for large batches in little memory"
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw", description="use adamw unless you compare optimisers; sgd (momentum .9) needs a higher rate"
    )
    learning_rate: float = Field(
        2e-3,
        gt=0,
        description="peak learning rate of projection, residuals and ranker; use less if the curve is unsteady",
    )
    backbone_learning_rate: float = Field(
        5e-4, gt=0, description="peak learning rate of BERT's layers; use a fifth of it for 'all'"
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the steps in which the rate rises; then it falls to nearly 0; use more with high rates",
    )
    weight_decay: float = Field(
        0.05, ge=0, description="weight decay of projection and ranker; use more with little data"
    )
    backbone_weight_decay: float = Field(
        0.01, ge=0, description="weight decay of BERT's layers; use more if all of them are fine-tuned on few texts"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the ranker; use more with little data")
    texts_per_step: int = Field(64, ge=1, description="texts in a batch while BERT is fine-tuned; use more on a GPU")
    ranker: Literal["transformer", "gru", "mlp"] = Field(
        "transformer",
        description="transformer for the best quality; gru for long histories and few requests; mlp, the smallest and "
        "fastest, if the order of events matters little",
    )
    loss: Literal["auto", "softmax", "sampled", "mse"] = Field(
        "auto",
        description="softmax over all items with interactions; sampled (with logQ correction) for large catalogues; "
        f"auto: softmax up to {FULL_ITEMS:,} items, sampled beyond; mse for ratings: the score is regressed on the "
        "rating (1 for the highest, and without ratings for every interaction; 0 for other items)",
    )
    negatives: int = Field(
        512, ge=1, description="items that a step draws for sampled and mse; use more with larger catalogues"
    )
    patience: int = Field(
        0,
        ge=0,
        description="stop after this many epochs without a better validation NDCG@10, 0 for never; the best epoch is "
        "kept in any case; use to save time with more --epochs than are needed",
    )
    augment: int = Field(
        0, ge=0, description="corrupted copies of each item text (typing errors, dropped and swapped words)"
    )
    synonyms: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the words in these copies that are replaced by words used in the same contexts of the "
        "catalogue; use with long descriptions that users search for in other words",
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        description="relative length of an adversarial perturbation (FGM) of the pooled text vectors while the head is "
        "trained and of the word embeddings while BERT is fine-tuned, 0 for none; try --augment first, which gained "
        "more on typing errors in less time (docs/export.md)",
    )
    teachers: int = Field(
        1,
        ge=1,
        le=9,
        description="teachers whose averaged predictions train one more, which is kept; use when the last percent "
        "matters, at N + 1 times the time",
    )
    train_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where the teacher is trained; use cuda with --backbone-layers all or 100,000 items and more"
    )
    mixed_precision: bool = Field(False, description="train in bfloat16 where it is safe; use on a GPU")

    @property
    def tuned_layers(self) -> int | None:
        """How many of BERT's last layers are fine-tuned: 0 for none, None for all."""
        if self.backbone_layers == ALL:
            return None
        return 0 if self.backbone_layers == FROZEN else int(self.backbone_layers)


TRAINING = tuple(TrainingSettings.model_fields)
