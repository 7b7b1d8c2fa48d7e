"""Every task and every family learns what can be learnt, from data whose answer is known; and recipes read."""

import random
import tomllib

import pytest
import torch

import regard
from regard import RegardError, Sequences
from regard.training.events import Finished, Validated
from regard.training.recipe import load_recipe, parse_recipe, recipe_names
from regard.training.tasks import task_of
from regard.training.trainer import train
from regard.training.workers import Workers

NOUNS, VERBS = ["cat", "dog", "bird", "horse"], {"cat": "purrs", "dog": "barks", "bird": "sings", "horse": "runs"}
GPT = (
    'type = "gpt"\nn_positions = 64\nn_embd = 32\nn_layer = 2\nn_head = 4\n'
    "resid_pdrop = 0.0\nembd_pdrop = 0.0\nattn_pdrop = 0.0"
)
LLAMA = (
    'type = "llama"\nhidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4\n'
    "num_key_value_heads = 2\nmax_position_embeddings = 64"
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
    ("kind", "model"),
    [("bytes", GPT), ("bytes", LLAMA), ("words", f'type = "awd_lstm"\n{AWD}')],
    ids=["gpt", "llama", "awd_lstm"],
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


LANGUAGE = f'type = "awd_lstm"\n{AWD}'
CLASSES = f'type = "ulmfit"\n{AWD}\nclassifier_dropout = 0.0'
SLANTED = 'schedule = "slanted"\nrate_factor = 2.6'
CARRYING = "carry_state = true\nactivation_penalty = 2.0\nchange_penalty = 1.0"
AVERAGED = 'optimizer = "asgd"\nschedule = "constant"\naveraging_patience = 1'


def staged(data, task, model, steps, rate, more, start="", renew=False):
    """A recipe with more said about training."""
    made = recipe(data, task, "words", model, steps, rate, start)
    training = tomllib.loads(more)
    changed = {"training": made.training.model_copy(update=training)}
    changed["tokenizer"] = made.tokenizer.model_copy(update={"renew": renew})
    return type(made).model_validate(made.model_copy(update=changed).model_dump())


def test_the_three_stages_of_ulmfit(data, tmp_path):
    general, target, classes = (str(tmp_path / name) for name in ("general", "target", "classes"))
    other = tmp_path / "other"
    other.mkdir()
    for part in ("train", "valid", "test"):
        words = (data / f"{part}.tsv").read_text().replace("horse", "mule")
        (other / f"{part}.tsv").write_text(words)
    list(train(staged(other, "language-model", LANGUAGE, 150, 0.02, CARRYING), tmp_path / "general"))
    second = staged(data, "language-model", LANGUAGE, 100, 0.02, f"{SLANTED}\n{CARRYING}", general, renew=True)
    scores = scores_of(train(second, tmp_path / "target"))
    assert scores["perplexity"] < 3
    before, after = regard.load(general), regard.load(target)
    assert after.tokenizer.inner.token_to_id("horse") is not None
    assert after.tokenizer.inner.token_to_id("mule") is None
    assert before.tokenizer.inner.token_to_id("mule") is not None
    third = staged(data, "classification", CLASSES, 120, 0.02, f"{SLANTED}\nunfreeze_every = 20", target)
    assert scores_of(train(third, tmp_path / "classes"))["accuracy"] == 100
    assert regard.load(classes).tokenizer.vocab_size == after.tokenizer.vocab_size


def test_new_words_begin_as_the_mean_of_all_and_known_ones_stay(data, tmp_path):
    first = staged(data, "language-model", LANGUAGE, 5, 0.01, "")
    list(train(first, tmp_path / "first"))
    again = staged(data, "language-model", LANGUAGE, 1, 1e-9, "", str(tmp_path / "first"), renew=True)
    list(train(again, tmp_path / "second"))
    one, two = (regard.load(str(tmp_path / name)) for name in ("first", "second"))
    for word in ("the", "dog", "barks"):
        places = [loaded.tokenizer.inner.token_to_id(word) for loaded in (one, two)]
        old, new = (
            loaded.model.encoder.embedding.weight[place] for loaded, place in zip((one, two), places, strict=True)
        )
        torch.testing.assert_close(old, new, atol=1e-6, rtol=0)


def test_layers_that_are_frozen_do_not_move_before_their_time(data, tmp_path):
    chosen = staged(data, "classification", CLASSES, 2, 0.01, "unfreeze_every = 10")
    list(train(chosen, tmp_path / "run"))
    torch.manual_seed(chosen.training.seed)
    fresh = task_of(chosen).make_model().state_dict()
    moved = {name for name, value in regard.load(str(tmp_path / "run")).model.state_dict().items()
             if not torch.equal(value, fresh[name])}  # fmt: skip
    assert any(name.startswith("head.") for name in moved)
    assert not any(name.startswith("encoder.") for name in moved)


@pytest.mark.parametrize(
    ("task", "model", "more"),
    [
        ("language-model", LANGUAGE, CARRYING),
        ("language-model", LANGUAGE, f"{AVERAGED}\nvalidate_every = 2\ncarry_state = true"),
        ("classification", CLASSES, f"{SLANTED}\nunfreeze_every = 2"),
    ],
    ids=["carried", "averaged", "unfrozen"],
)
def test_stopped_at_any_step_a_stage_goes_on_with_the_same_losses(data, tmp_path, task, model, more):
    chosen = staged(data, task, model, 9, 0.02, more)
    whole = [event.loss for event in train(chosen, tmp_path / "whole") if hasattr(event, "rate")]
    losses, resume = [], False
    while len(losses) < 9:
        events = train(chosen, tmp_path / "parts", resume=resume)
        losses.append(next(event.loss for event in events if hasattr(event, "rate")))
        events.close()
        resume = True
    assert losses == whole
    list(train(chosen, tmp_path / "parts", resume=True))
    for name, value in regard.load(str(tmp_path / "whole")).model.state_dict().items():
        assert torch.equal(value, regard.load(str(tmp_path / "parts")).model.state_dict()[name])


def test_a_carried_state_is_that_of_the_text_before(data, tmp_path):
    chosen = staged(data, "language-model", LANGUAGE, 4, 0.02, "carry_state = true")
    task = task_of(chosen)
    model = task.make_model().train()
    plan = task.train.plan(chosen.training.batch_tokens, 1, 0)
    for number in plan[:3]:
        loss, _ = task.loss(model, task.train.batch(number), 0.0)
    rows = [task.train.ids[row * 32 : (row + 3) * 32 + 1] for row in plan[0]]
    inputs = Sequences.of_ids([row[:-1].tolist() for row in rows])
    logits, _ = model(inputs)
    answers = torch.tensor([row[1:].tolist() for row in rows])
    last = logits.view(len(rows), 96, -1)[:, 64:]
    expected = torch.nn.functional.cross_entropy(last.flatten(0, 1), answers[:, 64:].flatten())
    torch.testing.assert_close(loss, expected)


def test_a_backward_model_learns_from_texts_in_reverse(data):
    forward, backward = (
        task_of(staged(data, "language-model", f"{LANGUAGE}\nbackward = {word}", 4, 0.02, ""))
        for word in ("false", "true")
    )
    length = len(forward.codec.encode_many([(data / "train.tsv").read_text().splitlines()[1].split("\t")[0]])[0])
    assert backward.train.ids[:length].tolist() == forward.train.ids[:length][::-1].tolist()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["training.carry_state=true"], "carry_state is for language models of type awd_lstm"),
        (["training.rate_factor=2.6"], "rate_factor needs layers in one stack, and transformer has two"),
        (["training.unfreeze_every=5"], "unfreeze_every needs layers in one stack"),
        (["tokenizer.renew=true"], "renew is for language models of type awd_lstm that begin from another"),
    ],
)
def test_what_does_not_go_together_is_told(changes, match):
    with pytest.raises(RegardError, match=match):
        load_recipe("g2p", changes)


def test_streams_are_for_one_process(data, tmp_path):
    chosen = staged(data, "language-model", LANGUAGE, 4, 0.02, "carry_state = true")
    with pytest.raises(RegardError, match="for one process"):
        next(iter(train(chosen, tmp_path / "run", workers=Workers(0, 2))))


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
    with pytest.raises(
        RegardError, match="language-model needs tokenizer.kind bytes or wordpiece or words or unigram, not bpe"
    ):
        parse_recipe('name = "x"\ntask = "language-model"\n[data]\nsource = "cmudict"\n', "x.toml", [])
    with pytest.raises(RegardError, match="classification needs model.type bert or albert or gpt or ulmfit, not llama"):
        parse_recipe(
            'name = "x"\ntask = "classification"\n[data]\nsource = "cmudict"\n[tokenizer]\nkind = "bytes"\n[model]\n'
            + LLAMA,
            "x.toml",
            [],
        )
    with pytest.raises(RegardError, match="labels follows from the task"):
        parse_recipe('name = "x"\n[data]\nsource = "cmudict"\n[model]\ntype = "gpt"\nlabels = ["a"]\n', "x.toml", [])


def test_validations_carry_the_scores_of_their_task(data, tmp_path):
    [validated] = [
        event
        for event in train(recipe(data, "classification", "bytes", GPT, 2, 0.01), tmp_path / "run")
        if isinstance(event, Validated)
    ]
    assert set(validated.scores) == {"accuracy", "f1"}
