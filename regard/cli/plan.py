"""`regard plan`: what a recipe costs on so many GPUs, before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.training.planning.plan import Plan


def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe of the package (g2p, gpt-350m, ...) or FILE.toml.")],
    gpus: Annotated[str, typer.Option(help="How many; several, such as 1,8,64, are a line of a table each.")] = "1",
    gpu: Annotated[str, typer.Option(help="h100, a100, l4, ...; cpu: this machine, measured now.")] = "h100",
    changes: Annotated[
        Optional[list[str]], typer.Option("--set", help="Change a field, e.g. training.batch_tokens=65536.")  # noqa: UP045
    ] = None,
    in_machine: Annotated[int, typer.Option("--gpus-per-machine", min=1, help="GPUs that share a machine.")] = 8,
    length: Annotated[
        Optional[float], typer.Option(help="Mean tokens of a text, instead of the data's.")  # noqa: UP045
    ] = None,
    tokens: Annotated[
        Optional[int], typer.Option(min=1, help="Of the training data, where it is not here.")  # noqa: UP045
    ] = None,
    share: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.01, max=1.0, help="Of the peak that matrix products reach."),
    ] = None,
    pue: Annotated[float, typer.Option(min=1.0, help="Watts of the building for each of the machines.")] = 1.56,
    price: Annotated[
        Optional[float], typer.Option("--price-per-gpu-hour", min=0, help="In the recipe's currency.")  # noqa: UP045
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers instead of words.")] = False,
) -> None:
    """Plan a training run: memory, time, messages, energy, and the best way to cut it over GPUs. Nothing is trained.

    Example: regard plan gpt-350m --gpus 64 --gpu h100 --price-per-gpu-hour 2.5
    """
    from regard.training.planning.devices import CPU, device_of
    from regard.training.planning.plan import Place
    from regard.training.planning.plan import plan as make
    from regard.training.planning.told import as_facts, table, told
    from regard.training.planning.workload import workload_of
    from regard.training.recipe import load_recipe

    counts = _counts(gpus)
    device = device_of(gpu)
    work = workload_of(load_recipe(recipe, changes), length, tokens)
    place = Place(device, 1 if device.name == CPU else in_machine, share, pue, price)
    if len(counts) == 1:
        found = make(work, counts[0], place)
        print(_json([as_facts(found)][0]) if as_json else told(found))
        return
    plans: list[Plan | RegardError] = []
    for count in counts:
        try:
            plans.append(make(work, count, place))
        except RegardError as error:
            plans.append(error)
    if all(isinstance(one, RegardError) for one in plans):
        raise plans[0]  # type: ignore[misc]
    if as_json:
        print(_json([{"error": str(one)} if isinstance(one, RegardError) else as_facts(one) for one in plans]))
    else:
        print(table(plans, counts))


def _counts(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise RegardError(f"--gpus is a number, or several such as 1,8,64, not {text!r}") from None
    for count in found:
        if count < 1:
            raise RegardError(f"--gpus is 1 or more, not {count}")
    return found


def _json(facts: object) -> str:
    import json

    return json.dumps(facts, indent=2)
