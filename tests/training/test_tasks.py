"""Every task and every family learns what can be learnt, from data whose answer is known; and recipes read."""

import random

import pytest
import torch

import regard
from regard import RegardError
from regard.training.events import Finished, Validated
from regard.training.recipe import load_recipe, parse_recipe, recipe_names
from regard.training.trainer import train

NOUNS, VERBS = ["cat", "dog", "bird", "horse"], {"cat": "purrs", "dog": "barks", "bird": "sings", "horse": "runs"}
GPT = (
    'type = "gpt"\nn_positions = 64\nn_embd = 32\nn_layer = 2\nn_head = 4\n'
    "resid_pdrop = 0.0\nembd_pdrop = 0.0\nattn_pdrop = 0.0"
)
BERT = (
    'type = "bert"\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\nintermediate_size = 64\n'
    "max_position_embeddings = 64\nhidden_dropout_prob = 0.0\nattention_probs_dropout_prob = 0.0"
)
AWD = "embedding_size = 24\nhidden_size = 32\nnum_hidden_layers = 2\ndropout_multiplier = 0.0"


def sentence(chance):
    noun = chance.choice(NOUNS)
    return f"the {chance.choice(['old', 'young', 'big'])} {noun} {VERBS[noun]}", noun


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sentences in which the noun decides the verb, and the noun is the label."""
    place, chance = tmp_path_factory.mktemp("data"), random.Random(1)
    for part, count in (("train", 240), ("valid", 24), ("test", 24)):
        rows = ["\t".join(sentence(chance)) for _ in range(count)]
        (place / f"{part}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return place


def recipe(data, task, kind, model, steps, rate, start=""):
    text = f"""
name = "tiny"
task = "{task}"
start = "{start}"
[data]
train = "{data}/train.tsv"
valid = "{data}/valid.tsv"
test = "{data}/test.tsv"
max_tokens = 32
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
"""
    return parse_recipe(text, "tiny.toml", [])


def scores_of(events):
    return next(event for event in events if isinstance(event, Finished)).scores


@pytest.mark.parametrize(
    ("kind", "model"), [("bytes", GPT), ("words", f'type = "awd_lstm"\n{AWD}')], ids=["gpt", "awd_lstm"]
)
def test_a_language_model_learns_which_verb_belongs_to_which_noun(data, tmp_path, kind, model):
    steps, rate = (120, 0.01) if kind == "bytes" else (250, 0.02)
    scores = scores_of(train(recipe(data, "language-model", kind, model, steps, rate), tmp_path / "run"))
    # "the", noun and adjective are free, verb and end follow: about ln(12) a sentence in all
    assert scores["perplexity"] < 2.5
    written = regard.load(str(tmp_path / "run")).generate(["the old dog"], tokens=1 if kind == "words" else 5)
    assert "barks" in written[0]


def test_bert_learns_hidden_words(data, tmp_path):
    scores = scores_of(train(recipe(data, "masked-words", "wordpiece", BERT, 400, 0.005), tmp_path / "run"))
    assert scores["masked_words"] > 40
    filled = regard.load(str(tmp_path / "run")).fill("the old [MASK] barks")[0]
    assert filled[0].text == "dog"


@pytest.mark.parametrize(
    ("kind", "model"),
    [("bytes", GPT), ("wordpiece", BERT), ("words", f'type = "ulmfit"\n{AWD}\nclassifier_dropout = 0.0')],
    ids=["gpt", "bert", "ulmfit"],
)
def test_classifiers_learn_classes(data, tmp_path, kind, model):
    steps = 150 if kind == "words" else 60
    scores = scores_of(train(recipe(data, "classification", kind, model, steps, 0.01), tmp_path / "run"))
    assert scores["accuracy"] == 100
    assert scores["f1"] == pytest.approx(100)
    [[first, *_]] = regard.load(str(tmp_path / "run")).classify(["the old horse runs"])
    assert first.text == "horse"
    assert first.probability > 0.8


def test_fine_tuning_starts_from_a_model_and_refuses_another(data, tmp_path):
    list(train(recipe(data, "language-model", "bytes", GPT, 20, 0.01), tmp_path / "begun"))
    tuned = recipe(data, "classification", "bytes", GPT, 1, 1e-9, str(tmp_path / "begun"))
    list(train(tuned, tmp_path / "tuned"))
    before, after = (regard.load(str(tmp_path / name)) for name in ("begun", "tuned"))
    assert before.tokenizer.encode("the cat") == after.tokenizer.encode("the cat")
    torch.testing.assert_close(before.model.embedding.weight, after.model.embedding.weight, atol=1e-6, rtol=0)
    other = recipe(data, "classification", "bytes", GPT.replace("n_embd = 32", "n_embd = 16"), 1, 0.01, tuned.start)
    with pytest.raises(RegardError, match="does not fit .model.: .* is missing there or has another shape"):
        list(train(other, tmp_path / "other"))


def test_a_masked_run_goes_on_with_the_same_losses(data, tmp_path):
    """Chance chooses the hidden words; it comes back with the checkpoint."""
    chosen = recipe(data, "masked-words", "wordpiece", BERT, 6, 0.005)
    whole = [event.loss for event in train(chosen, tmp_path / "whole") if hasattr(event, "rate")]
    events, losses = train(chosen, tmp_path / "parts"), []
    for event in events:
        if hasattr(event, "rate"):
            losses.append(event.loss)
        if len(losses) == 3:
            events.close()
            break
    losses += [event.loss for event in train(chosen, tmp_path / "parts", resume=True) if hasattr(event, "rate")]
    assert losses == whole


def test_a_label_that_training_never_saw_is_named(data, tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.tsv").write_text((data / f"{part}.tsv").read_text())
    (tmp_path / "test.tsv").write_text("text\tlabel\nthe cow moos\tcow\n")
    with pytest.raises(RegardError, match="the label 'cow' stands in the validation or test data"):
        list(train(recipe(tmp_path, "classification", "bytes", GPT, 1, 0.01), tmp_path / "run"))


def test_every_recipe_of_the_package_reads():
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_tokenizer_and_task_must_go_together():
    with pytest.raises(RegardError, match="language-model needs tokenizer.kind bytes or wordpiece or words, not bpe"):
        parse_recipe('name = "x"\ntask = "language-model"\n[data]\nsource = "cmudict"\n', "x.toml", [])
    with pytest.raises(RegardError, match="labels follows from the task"):
        parse_recipe('name = "x"\n[data]\nsource = "cmudict"\n[model]\ntype = "gpt"\nlabels = ["a"]\n', "x.toml", [])


def test_validations_carry_the_scores_of_their_task(data, tmp_path):
    [validated] = [
        event
        for event in train(recipe(data, "classification", "bytes", GPT, 2, 0.01), tmp_path / "run")
        if isinstance(event, Validated)
    ]
    assert set(validated.scores) == {"accuracy", "f1"}
