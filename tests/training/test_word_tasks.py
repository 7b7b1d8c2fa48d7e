"""Labels of words, spans, pairs: learnt from data whose answer is known, loaded, asked and explained."""

import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import regard
from regard import RegardError
from regard.cli import app
from regard.training.events import Finished
from regard.training.recipe import parse_recipe
from regard.training.tasks import task_of
from regard.training.tasks.embeddings import contrastive_loss, spearman
from regard.training.trainer import train

BERT = (
    'type = "bert"\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\nintermediate_size = 64\n'
    "max_position_embeddings = 64\nhidden_dropout_prob = 0.0\nattention_probs_dropout_prob = 0.0\n"
    "initializer_range = 0.15"
)
NAMES, TOWNS = ["Ada", "Alan", "Grace", "Kurt"], ["London", "Paris", "Rome", "New York"]


def recipe(data, task, steps=120, rate=0.01, ending="jsonl", data_fields="", kind="wordpiece", more="", model=BERT):
    text = f"""
name = "tiny"
task = "{task}"
[data]
train = "{data}/train.{ending}"
valid = "{data}/valid.{ending}"
test = "{data}/test.{ending}"
max_tokens = 32
{data_fields}
[tokenizer]
kind = "{kind}"
vocab_size = 320
[model]
{model}
[training]
max_steps = {steps}
batch_tokens = 256
schedule = "linear"
learning_rate = {rate}
warmup_steps = 5
validate_every = {steps}
label_smoothing = 0.0
{more}
"""
    return parse_recipe(text, "tiny.toml", [])


def write(place, rows_of, counts=(200, 20, 20)):
    chance = random.Random(1)
    for part, count in zip(("train", "valid", "test"), counts, strict=True):
        rows = [json.dumps(rows_of(chance)) for _ in range(count)]
        (place / f"{part}.jsonl").write_text("\n".join(rows) + "\n")


def scores_of(events):
    return next(event for event in events if isinstance(event, Finished)).scores


def tagged(chance):
    name, town = chance.choice(NAMES), chance.choice(TOWNS)
    words = [name, "lives", "in", *town.split(), "."]
    labels = ["B-PER", "O", "O", "B-LOC", *(["I-LOC"] * town.count(" ")), "O"]
    return {"text": words, "label": labels}


def test_names_are_found_and_explained(tmp_path):
    write(tmp_path, tagged)
    scores = scores_of(train(recipe(tmp_path, "token-labels", 60), tmp_path / "run"))
    assert scores["entity_f1"] == pytest.approx(100)
    loaded = regard.load(str(tmp_path / "run"))
    long = " ".join(["Grace lives in New York ."] * 30)  # longer than the model can read
    [found, again] = loaded.label(["Alan lives in Rome .", long])
    assert [one.label for one in found] == ["B-PER", "O", "O", "B-LOC", "O"]
    assert len(again) == 180
    assert [one.label for one in again[:6]] == ["B-PER", "O", "O", "B-LOC", "I-LOC", "O"]
    answered = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "Alan lives in Rome"])
    assert answered.output == "Alan\tB-PER\nlives\tO\nin\tO\nRome\tB-LOC\n\n"
    assert loaded.explain("Alan lives in Rome").answers == ["Alan/B-PER lives/O in/O Rome/B-LOC"]


QUESTIONS = {"who": 0, "where": 1}


def asked(chance):
    name, town = chance.choice(NAMES), chance.choice(TOWNS)
    question = chance.choice(list(QUESTIONS))
    answer = (name, town)[QUESTIONS[question]]
    text = f"It rains. {name} lives in {town} now."
    return {
        "text": text,
        "question": f"{question}?",
        "label": {"text": [answer], "answer_start": [text.index(answer)]},
    }


def test_spans_are_found_with_their_place_and_explained(tmp_path):
    write(tmp_path, asked, (300, 20, 20))
    chosen = recipe(tmp_path, "spans", 300, 0.01, data_fields='second_field = "question"')
    scores = scores_of(train(chosen, tmp_path / "run"))
    assert scores["exact_match"] > 90
    loaded = regard.load(str(tmp_path / "run"))
    text = "It rains. Ada lives in New York now."
    found = loaded.find("where?", text)
    assert found.text == "New York" == text[found.begin : found.end]
    assert loaded.find("who?", text).text == "Ada"
    answered = CliRunner().invoke(app, ["run", str(tmp_path / "run"), f"who?\t{text}"])
    assert answered.output.startswith("Ada\t10\t13\t")
    explained = loaded.explain(f"where?\t{text}", query="York")
    assert explained.answers == ["New York (23-31)"]
    with pytest.raises(RegardError, match="a question and a text are needed"):
        loaded.find("who?", " ")


def compared(chance):
    one, other = chance.choice(NAMES), chance.choice(NAMES)
    return {"text": f"{one} came", "other": f"it was {other}", "label": "same" if one == other else "different"}


def test_pairs_are_classified_from_both_texts(tmp_path):
    write(tmp_path, compared, (400, 30, 30))
    chosen = recipe(tmp_path, "classification", 400, 0.01, data_fields='second_field = "other"')
    scores = scores_of(train(chosen, tmp_path / "run"))
    assert scores["accuracy"] > 90
    loaded = regard.load(str(tmp_path / "run"))
    [[same, _], [different, _]] = loaded.classify(["Ada came\tit was Ada", "Ada came\tit was Kurt"])
    assert (same.text, different.text) == ("same", "different")
    trace = loaded.trace(["Ada came\tit was Kurt"])
    assert trace.run.segments.tolist()[0] == 0
    assert trace.run.segments.tolist()[-1] == 1
    words = [piece.word for piece in trace.pieces["source"][0] if piece.word is not None]
    assert sorted(set(words)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("task", "row", "match"),
    [
        ("token-labels", {"text": "a b", "label": "O"}, r"valid\.jsonl, line 2: 2 words, but 1 labels"),
        ("token-labels", {"text": "a b", "label": "O B-ORG"}, "the label 'B-ORG' stands in the validation or test"),
        ("token-labels", {"text": 3, "label": "O"}, r"valid\.jsonl, line 2: 'text' holds 3, not a list of texts"),
        (
            "spans",
            {"text": "a b", "question": "q", "label": "c"},
            r"valid\.jsonl, line 2: the answer 'c' does not stand",
        ),
        (
            "spans",
            {"text": "a b", "question": "q", "label": {"text": ["b"], "answer_start": [0]}},
            r"valid\.jsonl, line 2: the answer 'b' does not stand at 0",
        ),
        ("spans", {"text": "a b", "question": "q", "label": {"text": ["b"]}}, r"line 2: 'label' needs as many numbers"),
    ],
)
def test_rows_that_do_not_fit_are_told(tmp_path, task, row, match):
    write(tmp_path, tagged if task == "token-labels" else asked)
    path = tmp_path / "valid.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")
    fields = 'second_field = "question"' if task == "spans" else ""
    with pytest.raises(RegardError, match=match):
        task_of(recipe(tmp_path, task, data_fields=fields))


def belonging(chance):
    name = chance.choice(NAMES)
    number = NAMES.index(name)
    return {"text": f"here is {name}", "other": f"{TOWNS[number]} is my town", "alike": "1"}


def graded(chance):
    name, town = chance.choice(NAMES), chance.choice(TOWNS)
    return {"text": f"here is {name}", "other": f"{town} is my town", "alike": NAMES.index(name) == TOWNS.index(town)}


def test_embeddings_bring_together_what_belongs_together(tmp_path):
    write(tmp_path, belonging)
    chosen = recipe(tmp_path, "embeddings", 40, data_fields='second_field = "other"')
    assert scores_of(train(chosen, tmp_path / "run")) == {"retrieval_accuracy": 100}
    loaded = regard.load(str(tmp_path / "run"))
    assert loaded.abilities == ("embed",)
    vectors = loaded.embed(["here is Kurt", "New York is my town", "Rome is my town"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
    assert len(CliRunner().invoke(app, ["run", str(tmp_path / "run"), "Kurt"]).output.split()) == 32
    assert loaded.explain("here is Kurt").walkthrough is not None


def test_embeddings_are_scored_by_rank(tmp_path):
    write(tmp_path, belonging)
    chance = random.Random(2)
    for part in ("valid", "test"):
        rows = [graded(chance) | {} for _ in range(20)]
        text = "".join(json.dumps(row | {"alike": 5.0 if row["alike"] else 0.5}) + "\n" for row in rows)
        (tmp_path / f"{part}.jsonl").write_text(text)
    more = '[contrastive]\nsimilarity_field = "alike"'
    chosen = recipe(tmp_path, "embeddings", 40, data_fields='second_field = "other"', more=more)
    assert scores_of(train(chosen, tmp_path / "run"))["spearman"] > 50
    (tmp_path / "valid.jsonl").write_text('{"text": "a", "other": "b", "alike": "much"}\n')
    with pytest.raises(RegardError, match="a similarity is a number, not 'much'"):
        task_of(chosen)


def test_one_text_read_twice_is_told_apart_by_dropout(tmp_path):
    write(tmp_path, belonging)
    more = "[contrastive]\nsame_text = true"
    chosen = recipe(tmp_path, "embeddings", 3, data_fields='second_field = "other"', more=more)
    task = task_of(chosen)
    batch = task.train.batch(task.train.plan(64, 1, 0)[0])
    assert batch.source.values.tolist() == batch.target.values.tolist()
    list(train(chosen, tmp_path / "run"))


@given(st.lists(st.integers(0, 5), min_size=3, max_size=9), st.integers(0, 9))
def test_spearman_is_that_of_scipy(values, seed):
    from scipy.stats import spearmanr

    given_values = torch.tensor(values)
    found = torch.rand(len(values), generator=torch.Generator().manual_seed(seed))
    if len(set(values)) > 1:
        expected = spearmanr(found.numpy(), given_values.numpy()).statistic
        assert spearman(found, given_values) == pytest.approx(expected, abs=1e-6)


def test_equal_second_texts_are_no_negatives():
    vectors = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    both = contrastive_loss(vectors[[0, 0, 1]], vectors[[0, 0, 1]], torch.tensor([7, 7, 8]), 0.1)
    scores = vectors[[0, 1]] @ vectors[[0, 1]].T / 0.1
    rows = torch.nn.functional.cross_entropy(scores, torch.arange(2), reduction="none")
    torch.testing.assert_close(both, (2 * rows[0] + _third(vectors)) / 3)


def _third(vectors):
    """The row of the third text: both of the others are negatives of it."""
    scores = vectors[1] @ vectors[[0, 0, 1]].T / 0.1
    return torch.nn.functional.cross_entropy(scores[None], torch.tensor([2]))
