"""Parts of a recipe that some runs have: several processes, cleaning, contrastive learning, distillation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Processes(Part):
    """How the processes of a run share the model; by default each holds the whole of it (see docs/processes.md)."""

    shard: bool = False
    """Weights, gradients and the optimiser's state are cut over the processes (FSDP2)."""
    tensor_parallel: int = Field(1, gt=0)
    """So many processes compute each layer together, every one a part of its heads and inner widths."""


class Clean(Part):
    """What is left out of the training part (see regard.data.cleaning); all of it is counted on the model card."""

    length_ratio: float = Field(0.0, ge=0)
    """Of pairs: most words of the longer side for one of the shorter; 0: any."""
    duplicates: bool = False
    """Leave out what was there before."""
    languages: tuple[str, ...] = ()
    """What the text, and of pairs the second one, is written in: `en`, `fr`."""
    overlap: bool = True
    """Keep what also stands in the validation or test part; it is counted either way."""


class SecondOpinionRecipe(Part):
    """A joint n-gram model of both sides, learnt after training, that ranks the answers of a beam search anew (see
    regard.generation.second_opinion).
    """

    order: int = Field(0, ge=0, le=12)
    """Longest n-grams; 0: no second opinion."""
    share: float = Field(0.25, ge=0, le=1)
    """How much it counts."""


class Contrastive(Part):
    """Sentence embeddings (see regard.training.tasks.embeddings)."""

    temperature: float = Field(0.05, gt=0)
    """Cosines are divided by it before the softmax (Gao et al. 2021, equation 1)."""
    same_text: bool = False
    """Learn from single texts, each read twice with other dropout (section 3); else from pairs that belong together."""
    similarity_field: str = ""
    """Of validation and test: how alike the two texts are, by people. Scored by Spearman's correlation; without it, by
    how often the nearest second text is a first one's own."""


class Distillation(Part):
    """A student learns from a teacher beside its task (see regard.training.tasks.distillation)."""

    teacher: str = ""
    """A model folder with the same tokenizer, and the same labels; empty: none."""
    task: float = Field(1.0, ge=0)
    """How much the task's own loss counts."""
    soft_targets: float = Field(1.0, ge=0)
    """How much the teacher's probabilities count (Hinton et al. 2015)."""
    temperature: float = Field(2.0, gt=0)
    """By which both models' scores are divided for them."""
    hidden_states: float = Field(0.0, ge=0)
    """How much the mean squared difference of hidden states counts (Jiao et al. 2020, equation 8); a student of another
    width learns a map to the teacher's."""
    attention_relations: float = Field(0.0, ge=0)
    """How much the relations of queries, keys and values count (Wang et al. 2021, "MiniLMv2"); widths may differ."""
    relation_heads: int = Field(0, ge=0)
    """Into how many heads queries, keys and values are cut for them; 0: as the teacher."""
