"""What a recipe says of its data is done: cleaning, and mistakes told in a line each, before anything is written."""

import json
import random

import pytest

import regard
from regard import RegardError
from regard.training.events import Finished
from regard.training.recipe import parse_recipe
from regard.training.tasks import task_of
from regard.training.trainer import train

RECIPE = """
name = "tiny"
[data]
train = "{place}/train.tsv"
valid = "{place}/valid.tsv"
test = "{place}/test.tsv"
{data}
[tokenizer]
vocab_size = 320
[model]
d_model = 16
encoder_layers = 1
decoder_layers = 1
attention_heads = 2
ffn_dim = 32
max_position_embeddings = 64
[training]
max_steps = 2
validate_every = 2
[cost]
energy = false
[score]
beams = 1
"""
CLEAN = [
    ("Please open the file now.", "Ouvrez le fichier maintenant, s'il vous plaît."),
    ("The window can be closed again.", "La fenêtre peut être refermée."),
    ("All settings were saved on the disk.", "Tous les réglages ont été enregistrés sur le disque."),
    ("This program is free software.", "Ce programme est un logiciel libre."),
]
DIRTY = {
    "left_out_as_duplicates": ("please open  the file NOW.", CLEAN[0][1]),
    "left_out_by_length_ratio": (
        "Yes.",
        "Oui, cette fenêtre peut être refermée tout de suite, si vous le voulez bien.",
    ),
    "left_out_by_language": ("Ce programme est gratuit pour vous.", "This program is free of charge for you."),
    "left_out_as_held_out": ("The battery of this computer is empty.", "La batterie de cet ordinateur est vide."),
}


def write(place, part, pairs):
    rows = "".join(f"{source}\t{target}\n" for source, target in pairs)
    (place / f"{part}.tsv").write_text(f"source\ttarget\n{rows}", encoding="utf-8")


def pairs_recipe(place, data="", *changes):
    return parse_recipe(RECIPE.format(place=place, data=data), "tiny.toml", list(changes))


def test_a_recipe_cleans_its_training_pairs_and_the_card_tells_what_was_left_out(tmp_path):
    pytest.importorskip("py3langid")
    shared = DIRTY["left_out_as_held_out"]
    write(tmp_path, "train", [*CLEAN, *DIRTY.values()])
    write(tmp_path, "valid", [shared])
    write(tmp_path, "test", [shared, ("Another sentence is here.", "Voici une autre phrase.")])
    told = {"valid_examples_also_in_training": 1, "test_examples_also_in_training": 1}
    as_it_is = task_of(pairs_recipe(tmp_path))
    assert as_it_is.counts == {"train_pairs": 8, "valid_pairs": 1, "test_pairs": 2, **told}

    rules = '[data.clean]\nlength_ratio = 3.0\nduplicates = true\nlanguages = ["en", "fr"]\noverlap = false\n'
    chosen = pairs_recipe(tmp_path, rules)
    task = task_of(chosen)
    assert task.counts == {"train_pairs": 4, "valid_pairs": 1, "test_pairs": 2, **told, **dict.fromkeys(DIRTY, 1)}
    learnt = [task.codec.source.decode(row.tolist()) for row in task.train.source]
    assert learnt == [source for source, _ in CLEAN]
    assert any(isinstance(event, Finished) for event in train(chosen, tmp_path / "run"))
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "4 train pairs, 1 valid pairs, 2 test pairs" in card
    for told in ("1 left out as duplicates", "1 left out by language", "1 test examples also in training"):
        assert told in card


def test_all_left_out_is_told(tmp_path):
    write(tmp_path, "train", [DIRTY["left_out_by_length_ratio"]])
    write(tmp_path, "valid", CLEAN)
    write(tmp_path, "test", CLEAN)
    with pytest.raises(RegardError, match="the train part of the data is empty once cleaned"):
        next(train(pairs_recipe(tmp_path, "[data.clean]\nlength_ratio = 2.0\n"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


BERT = 'type = "bert"\nhidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nintermediate_size = 16'


def text_recipe(place, task="classification", kind="wordpiece", model=BERT, size=310, start="", fields=""):
    return parse_recipe(
        f'name = "tiny"\ntask = "{task}"\nstart = "{start}"\n[data]\ntrain = "{place}/x.tsv"\nvalid = "{place}/x.tsv"\n'
        f'test = "{place}/x.tsv"\n{fields}\n[tokenizer]\nkind = "{kind}"\nvocab_size = {size}\n[model]\n{model}\n'
        "[training]\nmax_steps = 1\nvalidate_every = 1\n[cost]\nenergy = false\n",
        "tiny.toml",
        [],
    )


def write_texts(place, words=300):
    chance = random.Random(1)
    names = ["".join(chance.choices("abcdefghijkl", k=6)) for _ in range(words)]
    rows = [f"{' '.join(chance.choices(names, k=9))}\t{chance.choice('xy')}\n" for _ in range(60)]
    (place / "x.tsv").write_text("text\tlabel\n" + "".join(rows))


def test_a_vocabulary_larger_than_the_models_is_told(tmp_path):
    """The tokenizer of a model's folder was changed for a larger one since it was trained."""
    write_texts(tmp_path)
    list(train(text_recipe(tmp_path), tmp_path / "small"))
    larger = task_of(text_recipe(tmp_path, size=400))
    small = regard.load(str(tmp_path / "small")).model.config.vocab_size
    assert larger.codec.vocab_size > small
    larger.codec.save(tmp_path / "small" / "model")
    with pytest.raises(
        RegardError, match=f"the tokenizer has {larger.codec.vocab_size} tokens, more than the {small} of"
    ):
        next(train(text_recipe(tmp_path, start=str(tmp_path / "small")), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


SPANS = 'second_field = "question"'


@pytest.mark.parametrize(
    ("task", "fields", "text", "match"),
    [
        ("token-labels", "", "text\tlabel\na b\tO O\na b\tO\n", r"x\.tsv, line 3: 2 words, but 1 labels"),
        ("spans", SPANS, "text\tquestion\tlabel\na b\tq\tc\n", r"x\.tsv, line 2: the answer 'c' does not stand"),
        ("spans", "", "text\tlabel\na\tb\n", r"spans need data\.second_field"),
        ("embeddings", 'second_field = "other"', "text\tlabel\na\tb\n", r"x\.tsv has no column 'other'"),
        ("classification", "", "text\tlabel\na\tb\nc\n", r"x\.tsv, line 3: 1 columns, the first line names 2"),
        ("classification", "", "text\tlabel\na\tb\nc\tb\n", "classes need two labels or more"),
        ("masked-words", "", "text\tlabel\na\tb\n", "the train part of the data has one text"),
    ],
)
def test_what_a_row_lacks_is_told_with_its_line(tmp_path, task, fields, text, match):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(RegardError, match=match) as told:
        next(train(text_recipe(tmp_path, task, fields=fields), tmp_path / "run"))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_spans_are_learnt_from_squads_own_files(tmp_path):
    qas = [{"question": "who?", "id": "1", "answers": [{"text": "Ada", "answer_start": 0}]}]
    nested = {"data": [{"paragraphs": [{"context": f"Ada came {number} times.", "qas": qas}]} for number in range(20)]}
    (tmp_path / "x.json").write_text(json.dumps(nested))
    recipe = text_recipe(tmp_path, "spans", fields=SPANS)
    data = recipe.data.model_copy(update=dict.fromkeys(("train", "valid", "test"), f"{tmp_path}/x.json"))
    events = list(train(recipe.model_copy(update={"data": data}), tmp_path / "run"))
    assert set(events[-1].scores) == {"exact_match", "word_f1"}
