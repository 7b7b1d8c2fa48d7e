"""`regard export`: a model in another program's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="A model folder, or a name of the hub.")],
    folder: Annotated[Path, typer.Argument(help="Where it goes; a folder that does not exist yet.")],
    to: Annotated[str, typer.Option(help="hf: what transformers' from_pretrained reads.")] = "hf",
) -> None:
    """Write a model so that transformers loads it with the same logits.

    Example: regard export runs/bert --to hf bert-for-transformers
    """
    from regard.errors import RegardError, unknown
    from regard.hub.huggingface import write_folder
    from regard.pipelines import load
    from regard.pipelines.text_to_text import TextToText

    if to != "hf":
        raise unknown("format", to, ["hf"])
    if folder.exists():
        raise RegardError(f"{folder} is there already: name a folder that does not exist yet")
    loaded = load(model)
    tokenizer = loaded.codec if isinstance(loaded, TextToText) else loaded.tokenizer
    write_folder(loaded.model, tokenizer, folder)
    print(f"wrote {folder}")
    if isinstance(loaded, TextToText) and loaded.opinion is not None:
        print("its second opinion (--beams) is left behind: no other format has one")
