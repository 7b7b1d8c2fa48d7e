"""An attention head that maps atoms (docs/reactions.md), found again and held to it; skipped without rxnmapper."""

import copy
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from regard import RegardError
from regard.explain.trace import Trace
from regard.sequences import Sequences

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import map_reactions as mapping

ROOT = Path(__file__).parents[2]
REACTIONS = mapping.read_reactions()
# Bonds that each reaction makes, in the order of the file. The hydrolysis makes one; the map below says otherwise.
MADE = [1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 2, 2]
MISTAKES = {"ester hydrolysis": 1}


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return mapping.installed_model()
    except RegardError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(folder):
    with mapping.opened(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def looks(model, folder):
    return [mapping.attention(model, mapping.token_ids(reaction.tokens, folder)) for reaction in REACTIONS]


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AlbertModel, logging

    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has weights of a head that this class has not
        return AlbertModel.from_pretrained(folder, attn_implementation="eager").eval()


@torch.no_grad()
def test_every_head_looks_where_it_does_in_transformers(model, theirs, folder):
    ids = mapping.token_ids(REACTIONS[-1].tokens, folder)
    expected = theirs(torch.tensor([ids]), output_attentions=True)
    trace = Trace(model, Sequences.of_ids([ids]))
    ours = torch.stack([trace[f"{place}.self_attention.weights"] for place in trace.layers])
    torch.testing.assert_close(ours, torch.cat(expected.attentions), atol=1e-5, rtol=0)


@torch.no_grad()
def test_vectors_are_those_of_transformers(model, theirs, folder):
    """In float64 to the last digits. In float32 both stray from that by chance: ours no further, over all reactions."""
    exact, exact_theirs, squares = copy.deepcopy(model).double(), copy.deepcopy(theirs).double(), torch.zeros(2)
    for reaction in REACTIONS:
        ids = mapping.token_ids(reaction.tokens, folder)
        row, sequence = torch.tensor([ids]), Sequences.of_ids([ids])
        wanted = Trace(exact, sequence).output.values
        torch.testing.assert_close(exact_theirs(row).last_hidden_state[0], wanted, atol=1e-11, rtol=1e-11)
        found = Trace(model, sequence).output.values, theirs(row).last_hidden_state[0]
        torch.testing.assert_close(*found, atol=4e-5, rtol=1e-5)
        squares += torch.stack([(one - wanted).square().mean() for one in found])
    ours, other = squares.div(len(REACTIONS)).sqrt().tolist()
    assert ours < 1.5 * other < 1.5e-6  # measured: 6.3e-7 and 5.9e-7


def test_the_head_of_the_paper_is_found(looks):
    counts = torch.stack([mapping.heads_right(*pair) for pair in zip(REACTIONS, looks, strict=True)]).sum(dim=0)
    assert mapping.best_head(counts)[1] == 5
    assert counts[10, 5] >= counts.max() - 1  # layer 10 is what the authors' package takes; layer 8 is as good
    assert counts[10, 5] >= 0.93 * sum(len(reaction.products) for reaction in REACTIONS)  # measured: 141 of 150
    others = torch.cat([counts[:, :5], counts[:, 6:]], dim=1)
    assert (counts[:, 5] > others.amax(dim=1)).all()  # in every layer
    assert others.max() < 0.65 * counts[10, 5]


def test_its_map_is_right_but_for_one_oxygen(looks):
    for number, (reaction, weights) in enumerate(zip(REACTIONS, looks, strict=True)):
        found = mapping.map_atoms(reaction, weights[10, 5])
        wrong = len(reaction.products) - mapping.right(reaction, found)
        # The hydroxide's oxygen makes the acid, but the rule takes that of the ester, which leaves: one bond less.
        assert wrong == MISTAKES.get(reaction.name, 0), reaction.name
        assert mapping.bonds_made(reaction, found) == MADE[number] - wrong, reaction.name


def test_the_rule_alone_does_not_find_the_map():
    rightly = 0
    for reaction in REACTIONS:
        alike = torch.ones(len(reaction.tokens), len(reaction.tokens))
        rightly += mapping.right(reaction, mapping.map_atoms(reaction, alike))
    assert rightly < 0.7 * sum(len(reaction.products) for reaction in REACTIONS)  # measured: 94 of 150


@pytest.mark.parametrize("reaction", REACTIONS, ids=lambda reaction: reaction.name)
def test_the_sample_says_where_every_atom_of_a_product_comes_from(reaction):
    for place in reaction.products:
        origins = [one for one in reaction.reactants if reaction.numbers[one] == reaction.numbers[place] is not None]
        kinds = {mapping.element(reaction.tokens[one]) for one in origins}
        assert kinds == {mapping.element(reaction.tokens[place])}, reaction.tokens[place]


def test_neighbours_are_bound_through_branches_and_rings():
    bound = mapping.neighbours(mapping.tokens_of("C1CC(=O)O1.Cl"))
    named = {place: sorted(others) for place, others in bound.items()}
    assert named == {0: [2, 8], 2: [0, 3], 3: [2, 6, 8], 6: [3], 8: [0, 3], 11: []}


@pytest.mark.parametrize(
    ("numbered", "plain"),
    [
        ("[CH3:1]", "C"),
        ("[cH:2]", "c"),
        ("[nH:3]", "[nH]"),
        ("[N+:4]", "[N+]"),
        ("[OH-:5]", "[OH-]"),
        ("[Si:6]", "[Si]"),
    ],
)
def test_the_model_is_shown_no_numbers(numbered, plain):
    assert mapping.read_reaction(f"{numbered}>>{numbered}").tokens == [plain, ">>", plain]


@pytest.mark.parametrize(("smiles", "said"), [("CCO", "one '>>'"), ("C§O>>CO", "'§' is no sign")])
def test_what_is_no_reaction_is_refused(smiles, said):
    with pytest.raises(RegardError, match=said):
        mapping.read_reaction(smiles)


def test_the_example_of_the_page_runs(folder, capsys):
    [example] = re.findall(
        r"^```py\n(.*?)^```", (ROOT / "docs" / "reactions.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    exec(compile(example, "docs/reactions.md", "exec"), {})
    assert "product C looks at reactant C" in capsys.readouterr().out
