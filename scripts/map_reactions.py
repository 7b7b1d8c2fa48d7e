"""Which attention head knows where the atoms of a reaction go? All are asked, and the best one maps the reactions.

    pip install --no-deps rxnmapper==0.4.3      # the model: an ALBERT that learned to fill in hidden parts of reactions
    python scripts/map_reactions.py

Schwaller et al. 2021, "Extraction of organic chemistry grammar from unsupervised learning of chemical reactions"
(Science Advances 7, eabe4166) found that one head looks from each atom of a product at the atom of the reactants that
it was, though nobody had told the model. Here it is found again from the weights: `reactions.smi` holds textbook
reactions with the origin of each atom, every head is scored against it, and the best one makes a map by their rule.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

import regard
from regard import RegardError
from regard.explain.trace import Trace
from regard.sequences import Sequences

REACTIONS = Path(__file__).with_name("reactions.smi")

# A token is an atom (in brackets or not), a bond, a branch, the number of a ring, or a sign between molecules.
_TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|>>|%\d\d|[BCNOPSFIbcnops]|[().=#+\\/:~@?*$-]|\d")
_ELEMENT = re.compile(r"\[?\d*([A-Z][a-z]?|[a-z])")
_NUMBERED = re.compile(r"\[(?P<symbol>[A-Z][a-z]?|[a-z])(?P<hydrogens>H\d*)?(?P<charge>[+-]\d*)?:(?P<number>\d+)\]")
_ORGANIC = {"B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I", "b", "c", "n", "o", "p", "s"}  # need no brackets
_NEIGHBOUR_GAIN = 90.0
"""How much more neighbours of a mapped atom look at neighbours of its origin: what the authors' package takes."""


@dataclass(frozen=True)
class Reaction:
    """`reactants>>products` as the model reads it, and what is known of its atoms."""

    name: str
    tokens: list[str]
    numbers: list[int | None]
    """For each token the number of its atom: an atom of the product was an atom of the reactants with the same number.
    Atoms that nobody can tell apart share a number; those that leave, and all that is no atom, have None."""

    @property
    def atoms(self) -> list[int]:
        """The tokens that are atoms."""
        return [place for place, token in enumerate(self.tokens) if is_atom(token)]

    @property
    def reactants(self) -> list[int]:
        return [place for place in self.atoms if place < self.tokens.index(">>")]

    @property
    def products(self) -> list[int]:
        return [place for place in self.atoms if place > self.tokens.index(">>")]


def read_reactions(path: Path = REACTIONS) -> list[Reaction]:
    """Lines of `reactants>>products name`, with numbered atoms. RegardError names a line that cannot be read."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        smiles, _, name = line.partition(" ")
        try:
            found.append(read_reaction(smiles, name))
        except RegardError as error:
            raise RegardError(f"{path}, line {number}: {error}") from error
    return found


def read_reaction(smiles: str, name: str = "") -> Reaction:
    """A reaction whose atoms may be numbered; the model is shown it without the numbers. Raises RegardError."""
    tokens = tokens_of(smiles)
    if tokens.count(">>") != 1:
        raise RegardError(f"a reaction has one '>>' between reactants and products: {smiles}")
    numbered = [_NUMBERED.fullmatch(token) for token in tokens]
    plain = [_without_number(found) if found else token for found, token in zip(numbered, tokens, strict=True)]
    return Reaction(name, plain, [int(found["number"]) if found else None for found in numbered])


def tokens_of(smiles: str) -> list[str]:
    """The signs of a SMILES. RegardError names the first that is none."""
    tokens = _TOKEN.findall(smiles)
    if "".join(tokens) != smiles:
        first = _TOKEN.sub(" ", smiles).split()[0]
        raise RegardError(f"{first!r} is no sign of SMILES: {smiles}")
    return tokens


def is_atom(token: str) -> bool:
    return token[0] == "[" or token[0].isalpha()


def element(token: str) -> str:
    """`C` for `c`, `[CH3]` and `[13C]`."""
    found = _ELEMENT.match(token)
    return found[1].capitalize() if found else token


def neighbours(tokens: list[str]) -> dict[int, set[int]]:
    """For each atom the atoms it is bound to, as places among the tokens."""
    bound: dict[int, set[int]] = {place: set() for place, token in enumerate(tokens) if is_atom(token)}
    branches: list[int | None] = []
    rings: dict[str, int] = {}
    last: int | None = None
    for place, token in enumerate(tokens):
        other: int | None = None
        if is_atom(token):
            other, here = last, place
            last = place
        elif token[-1].isdigit() and last is not None:
            here = last
            other = rings.pop(token, None)
            if other is None:
                rings[token] = here
        elif token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif token in (".", "~", ">>"):
            last = None
        if other is not None:
            bound[here].add(other)
            bound[other].add(here)
    return bound


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """The model of a folder that has `pytorch_model.bin`, converted aside; from the pickle only weights are taken."""
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(copytree(folder, Path(aside) / "model"))
        weights = torch.load(copy / "pytorch_model.bin", weights_only=True, map_location="cpu")
        save_file({name: value.clone() for name, value in weights.items()}, copy / "model.safetensors")
        yield regard.load(str(copy)).model


def installed_model() -> Path:
    """The folder of the model in the package rxnmapper. RegardError where it is not installed."""
    found = find_spec("rxnmapper")
    if found is None or not found.submodule_search_locations:
        raise RegardError("the model is in a package: pip install --no-deps rxnmapper==0.4.3")
    [folder] = (Path(found.submodule_search_locations[0]) / "models" / "transformers").glob("albert_*")
    return folder


def token_ids(tokens: list[str], folder: Path) -> list[int]:
    """What the model reads: the tokens by their lines in `vocab.txt`, between [CLS] and [SEP]."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    numbers = {token: number for number, token in enumerate(lines)}
    return [numbers.get(token, numbers["[UNK]"]) for token in ["[CLS]", *tokens, "[SEP]"]]


def attention(model: Any, ids: list[int]) -> Float[Tensor, "layers heads tokens tokens"]:
    """What every head looks at: rows ask, columns are looked at; [CLS] and [SEP] are left out at the end."""
    trace = Trace(model, Sequences.of_ids([ids]))
    weights = torch.stack([trace[f"{place}.self_attention.weights"] for place in trace.layers])
    return weights[..., 1:-1, 1:-1]


def heads_right(
    reaction: Reaction, weights: Float[Tensor, "layers heads tokens tokens"]
) -> Int[Tensor, "layers heads"]:
    """How many of the product's atoms look, among all atoms of the reactants, most at one of their number.

    Nothing of chemistry goes in: not the elements, nor that an atom goes to one place only.
    """
    looked_at = weights[:, :, reaction.products][..., reaction.reactants].argmax(dim=-1)
    origins = torch.tensor([reaction.numbers[place] or 0 for place in reaction.reactants])
    wanted = torch.tensor([reaction.numbers[place] or -1 for place in reaction.products])
    return (origins[looked_at] == wanted).sum(dim=-1)


def best_head(counts: Int[Tensor, "layers heads"]) -> tuple[int, int]:
    """Layer and head with the largest count; of equals the last."""
    last = int((counts.flatten() == counts.max()).nonzero()[-1])
    layer, head = divmod(last, counts.shape[1])
    return layer, head


def map_atoms(reaction: Reaction, weights: Float[Tensor, "tokens tokens"]) -> dict[int, int]:
    """For each atom of the product its atom of the reactants, by one head; an atom for which none is left is left out.

    The paper's rule. Looking counts in both directions, and only between atoms of one element. Of each product atom's
    looks, as shares, the surest is taken; both atoms are then done with, and their neighbours are favoured.
    """
    products, reactants = reaction.products, reaction.reactants
    looks = weights[products][:, reactants] + weights[reactants][:, products].T
    kinds = [[element(reaction.tokens[place]) for place in places] for places in (products, reactants)]
    looks = looks * torch.tensor([[one == other for other in kinds[1]] for one in kinds[0]])
    bound = neighbours(reaction.tokens)
    found: dict[int, int] = {}
    while looks.any():
        shares = looks / looks.sum(dim=1, keepdim=True).clamp(min=torch.finfo(looks.dtype).tiny)
        row, column = divmod(int(shares.argmax()), len(reactants))
        found[products[row]] = reactants[column]
        rows = [products.index(place) for place in bound[products[row]]]
        columns = [reactants.index(place) for place in bound[reactants[column]]]
        looks[torch.tensor(rows, dtype=torch.long)[:, None], torch.tensor(columns, dtype=torch.long)] *= _NEIGHBOUR_GAIN
        looks[row], looks[:, column] = 0, 0
    return found


def right(reaction: Reaction, found: dict[int, int]) -> int:
    """How many atoms of the product were given an origin of their number."""
    numbers = reaction.numbers
    return sum(numbers[place] is not None and numbers[place] == numbers[origin] for place, origin in found.items())


def bonds_made(reaction: Reaction, found: dict[int, int]) -> int:
    """Bonds of the product whose two atoms were not bound before.

    Numbers that atoms share say nothing of which went where; a map that mixes them up makes more bonds than it should.
    """
    bound = neighbours(reaction.tokens)
    pairs = [(place, other) for place in found for other in bound[place] if place < other and other in found]
    return sum(found[other] not in bound[found[place]] for place, other in pairs)


def _without_number(atom: re.Match[str]) -> str:
    """`C` for `[CH3:1]`; an atom with a charge, and the hydrogen of an aromatic nitrogen, keep their brackets."""
    symbol, hydrogens, charge = atom["symbol"], atom["hydrogens"] or "", atom["charge"] or ""
    bare = symbol in _ORGANIC and not charge and not (hydrogens and symbol != "c" and symbol.islower())
    return symbol if bare else f"[{symbol}{hydrogens}{charge}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the head that maps atoms, and map reactions with it.")
    parser.add_argument("reactions", nargs="?", type=Path, default=REACTIONS, help="lines of mapped SMILES and a name")
    parser.add_argument("--model", type=Path, help="a folder (by default that in the package rxnmapper)")
    given = parser.parse_args()
    folder = given.model or installed_model()
    reactions = read_reactions(given.reactions)
    with opened(folder) as model:
        looks = [attention(model, token_ids(reaction.tokens, folder)) for reaction in reactions]
    pairs = list(zip(reactions, looks, strict=True))
    counts = torch.stack([heads_right(*pair) for pair in pairs]).sum(dim=0)
    layer, head = best_head(counts)
    print(f"Atoms that look most at their origin, of {sum(len(reaction.products) for reaction in reactions)}")
    print("layer  head 0" + "".join(f"{number:5}" for number in range(1, counts.shape[1])))
    for number, row in enumerate(counts.tolist()):
        print(f"{number:5}   " + "".join(f"{count:5}" for count in row))
    print(f"\nAtoms mapped right by layer {layer}, head {head}; and by the rule alone, every atom looking at all alike")
    for reaction, weights in pairs:
        mapped, alone = (map_atoms(reaction, looks) for looks in (weights[layer, head], torch.ones_like(weights[0, 0])))
        shown = f"{right(reaction, mapped):3} of {len(reaction.products):2} {right(reaction, alone):4}"
        print(f"{shown}   {reaction.name}, bonds made: {bonds_made(reaction, mapped)}")


if __name__ == "__main__":
    main()
