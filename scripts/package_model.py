"""Put a trained model into the package: python scripts/package_model.py RUN_FOLDER --storage int8

Rounds the weights as they will be stored, scores the rounded model on the test part again, and writes
regard/pretrained/NAME with a model card that reports those scores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from regard.modalities.text import Codec
from regard.models.transformer import Transformer
from regard.pretrained import find
from regard.training.card import Facts, write_model
from regard.training.checkpoints import CHECKPOINT, check_resumable, load_checkpoint
from regard.training.events import read_validations
from regard.training.recipe import Recipe, load_recipe
from regard.training.scoring import evaluate, search_of
from regard.training.tasks.text_to_text import learnt_opinion, read_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--storage", choices=["float32", "float16", "int8"], default="int8")
    parser.add_argument("--out", type=Path, default=Path("regard/pretrained"))
    parser.add_argument("--recipe", help="take data and names from this recipe, e.g. where the data has moved")
    parser.add_argument("--name", help="name in the package; by default the recipe's")
    parser.add_argument("--began", type=Path, help="folder of the run that this one started from, for the card")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _, facts = load_checkpoint(options.run / CHECKPOINT)
    recipe = Recipe.model_validate(facts["recipe"])
    if options.recipe:
        recipe = load_recipe(options.recipe)
        check_resumable(options.run, recipe)
    folder = find(str(options.run))
    codec, model = Codec.load(folder), Transformer.load(folder)
    with tempfile.TemporaryDirectory() as rounded:
        model.save(Path(rounded), options.storage)
        model = Transformer.load(Path(rounded))
    parts = read_parts(recipe)
    how = search_of(model.config, recipe.score)
    opinion = learnt_opinion(recipe, codec)
    asked = (model, codec, parts["test"], recipe.score.metric, how)
    result, _ = evaluate(*asked, opinion=opinion)
    rounded = {"int8": evaluate(*asked, "int8", opinion)[0]}
    if opinion is not None:
        rounded["int8, without the second opinion"] = evaluate(*asked, "int8")[0]
    print(result, rounded)
    counts = {f"{name}_pairs": len(pairs) for name, pairs in parts.items()}
    spent = (facts["epochs"], facts["seconds"], facts["cpu_seconds"])
    before = what_it_took(options.began) if options.began else ""
    history, name = read_validations(options.run), options.name or recipe.name
    told = Facts(recipe, result, "test", facts["step"], *spent, counts, history, before, name, rounded)
    write_model(options.out / name, model, codec, told, options.storage, opinion)


def what_it_took(run: Path) -> str:
    """Steps and minutes of an earlier run."""
    _, facts = load_checkpoint(run / CHECKPOINT)
    wall, processor = (f"{facts[name] / 60:.0f} minutes of" for name in ("seconds", "cpu_seconds"))
    steps = f"{facts['step']:,} steps ({facts['epochs']:.1f} passes)"
    return f": {steps}, {wall} wall time, {processor} processor time"


if __name__ == "__main__":
    main()
