"""The loop on a tiny recipe: it ends, it resumes bit for bit wherever it was stopped, and it refuses what is wrong."""

import errno
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import regard
from regard import RegardError
from regard.training.events import Finished, Measured, Started, Stepped, Validated
from regard.training.recipe import Recipe, load_recipe, parse_recipe
from regard.training.trainer import train

RECIPE = """
name = "tiny"
[data]
train = "pairs.tsv"
valid = "pairs.tsv"
test = "pairs.tsv"
[tokenizer]
vocab_size = 400
[model]
d_model = 16
encoder_layers = 1
decoder_layers = 1
attention_heads = 2
ffn_dim = 32
max_position_embeddings = 32
[training]
batch_tokens = 60
max_steps = 20
warmup_steps = 5
learning_rate = 0.01
validate_every = 8
average = 2
[score]
valid_examples = 2
test_examples = 2
beams = 2
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and its data, and one thread, so that sums are the same in every process."""
    words = ["cat", "dog", "fox", "owl"]
    rows = [f"the {a} sees the {b}\tle {a} voit le {b}\n" for a in words for b in words]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def recipe(*changes: str) -> Recipe:
    return load_recipe("tiny.toml", list(changes))


def told(events) -> list[tuple]:
    """What events say apart from the time they took."""
    rows = []
    for event in events:
        if isinstance(event, Stepped):
            rows.append(("step", event.step, event.epoch, event.loss, event.rate, event.tokens))
        elif isinstance(event, Validated):
            rows.append(("validated", event.step, event.loss, tuple(event.scores.items()), event.best))
        elif isinstance(event, Finished):
            rows.append(("finished", event.step, event.reason, tuple(event.scores.items())))
    return rows


def weights(run: Path) -> dict[str, list]:
    return {name: value.tolist() for name, value in load_file(run / "model" / "model.safetensors").items()}


def test_a_run_ends_with_a_model_that_loads(place):
    events = list(train(recipe("training.max_steps=60", "model.dropout=0.0"), place / "run"))
    assert isinstance(events[0], Started)
    assert (events[0].examples, events[0].step) == (16, 0)
    assert [event.step for event in events if isinstance(event, Validated)] == [8, 16, 24, 32, 40, 48, 56, 60]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "60 steps are done"
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 61))
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert {path.name for path in (place / "run" / "model").iterdir()} >= {
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert list(place.rglob(".*")) == []
    for folder in (place / "run", place / "run" / "model"):
        [answer] = regard.load(str(folder)).translate(["the cat sees the dog"])
        assert isinstance(answer, str)
    log = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["event"] for row in log] == [
        *["measured", "validated"] * 6, "measured", *["measured", "validated"] * 2, "finished",
    ]  # fmt: skip
    card = (place / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in card.splitlines() if line.endswith("|")][-8:] == [
        f"| {step}" for step in (8, 16, 24, 32, 40, 48, 56, 60)
    ]  # what each part of the training reached


def test_the_same_recipe_makes_the_same_model_and_another_seed_another(place):
    events = [told(train(recipe(*changes), place / run)) for run, changes in (("a", []), ("b", []))]
    assert events[0] == events[1]
    assert weights(place / "a") == weights(place / "b")
    assert told(train(recipe("training.seed=2"), place / "c")) != events[0]


def test_stopped_after_any_event_it_goes_on_bit_for_bit(place):
    whole = told(train(recipe(), place / "whole"))
    for stop in (1, 6, 9, 10, 11, 25, 26, 27):  # the beginning, a step, around a validation, the end
        run = place / f"stopped{stop}"
        begun, events = train(recipe(), run), []
        for event in begun:
            events.append(event)
            if len(events) == stop:
                begun.close()
        resumed = train(recipe(), run, resume=True)
        assert next(resumed).step == sum(isinstance(event, Stepped) for event in events)
        assert told(events) + told(resumed) == whole, f"stopped after event {stop}"
        assert weights(run) == weights(place / "whole")


def test_stopped_again_and_again_it_goes_on_bit_for_bit(place):
    whole, events, resume = told(train(recipe(), place / "whole")), [], False
    while not events or not isinstance(events[-1], Finished):
        running = train(recipe(), place / "run", resume)
        for number, event in enumerate(running):
            events.append(event)
            if number == 3:
                running.close()
        resume = True
    assert told(events) == whole


def test_a_finished_run_has_nothing_left_to_do_unless_given_more_steps(place):
    first = told(train(recipe(), place / "run"))
    again = told(train(recipe(), place / "run", resume=True))
    assert again == first[-1:]
    more = told(train(recipe("training.max_steps=22"), place / "run", resume=True))
    assert [row[:2] for row in more] == [("step", 21), ("step", 22), ("validated", 22), ("finished", 22)]


def test_it_stops_when_nothing_gets_better(place):
    changes = ["training.learning_rate=1e-12", "training.patience=2", "training.max_steps=99"]
    events = list(train(recipe(*changes), place / "run"))
    assert events[-1].reason == "no better validation score for 2 validations"
    assert [event.best for event in events if isinstance(event, Validated)] == [True, False, False]


def test_another_system_learns_from_the_same_recipe_and_one_run_from_another(place):
    text = RECIPE.replace("[model]", '[model]\ntype = "t5"').replace("ffn_dim", "d_ff")
    text = text.replace("attention_heads", "num_heads").replace("max_steps = 20", "max_steps = 2")
    first = parse_recipe(text, "tiny.toml", [])
    list(train(first, place / "first"))
    assert regard.load(str(place / "first")).model.config.model_type == "t5"
    again = parse_recipe(f'start = "{place / "first"}"\n{text}', "tiny.toml", ["training.learning_rate=1e-9"])
    list(train(again, place / "again"))
    one, two = (regard.load(str(place / name)) for name in ("first", "again"))
    torch.testing.assert_close(one.model.embedding.weight, two.model.embedding.weight, atol=1e-5, rtol=0)
    assert one.codec.source.to_json() == two.codec.source.to_json()
    assert f"It began with the weights of `{place / 'first'}`" in (place / "again" / "model" / "README.md").read_text()


def test_a_run_is_never_overwritten(place):
    begun = train(recipe(), place / "run")
    next(begun)
    begun.close()
    with pytest.raises(RegardError, match=r"run holds a run already: go on with --resume, or choose another folder"):
        next(train(recipe(), place / "run"))


def test_started_again_by_the_same_torchrun_it_goes_on_and_no_other_run_is_touched(place, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    begun = train(recipe(), place / "run")
    assert next(begun).step == 0
    next(begun)
    begun.close()
    with pytest.raises(RegardError, match="holds a run already"):
        next(train(recipe(), place / "run"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = train(recipe(), place / "run")
    assert next(again).step == 1
    again.close()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    with pytest.raises(RegardError, match="holds a run already"):
        next(train(recipe(), place / "run"))


def test_nothing_to_resume(place):
    with pytest.raises(RegardError, match=r"there is no checkpoint .* to resume from"):
        next(train(recipe(), place / "run", resume=True))
    assert not (place / "run").exists()


def test_resuming_with_another_model_is_refused(place):
    begun = train(recipe(), place / "run")
    next(begun)
    begun.close()
    with pytest.raises(RegardError, match=r"was begun with another \[model\]"):
        next(train(recipe("model.ffn_dim=48"), place / "run", resume=True))


def test_a_loss_that_is_no_number_stops_the_run(place):
    changes = ["training.learning_rate=1e30", "training.warmup_steps=1"]
    with pytest.raises(RegardError, match=r"the loss is (nan|inf) at step \d+: lower training\.learning_rate"):
        list(train(recipe(*changes), place / "run"))


@pytest.mark.parametrize(
    ("rows", "changes", "match"),
    [
        ("", [], "the train part of the data is empty"),
        ("source\ttarget\n \t \n", [], "the train part of the data is empty"),
        ("one two three\tun deux trois\n", ["data.max_tokens=2"], r"no training pair is within data\.max_tokens = 2"),
    ],
)
def test_data_that_cannot_be_used(place, rows, changes, match):
    (place / "pairs.tsv").write_text(rows)
    with pytest.raises(RegardError, match=match):
        next(train(recipe(*changes), place / "run"))
    assert not (place / "run").exists()


KILLED = """
import sys, torch
from pathlib import Path
from regard.training.recipe import load_recipe
from regard.training.trainer import train
torch.set_num_threads(1)
folder, *changes = sys.argv[1:]
resume = (Path(folder) / "checkpoint.safetensors").exists()
for event in train(load_recipe("tiny.toml", changes), Path(folder), resume=resume):
    print(event.step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "seed"),
    [
        ([], 1),
        (["training.ema_decay=0.9", "training.average=3"], 2),
        (["training.optimizer=asgd", "training.learning_rate=0.5", "training.averaging_patience=1"], 3),
    ],
    ids=["mean of the last validations", "mean of all steps", "averaged SGD"],
)
def test_killed_at_random_moments_it_goes_on_bit_for_bit(place, changes, seed):
    """Twice, anywhere in a step or in writing a checkpoint; data order, random numbers and means are the same."""
    changes = [f"training.seed={seed}", "training.max_steps=40", "training.checkpoint_every=2", *changes]
    changes += ["training.validate_every=5"]
    whole = told(train(recipe(*changes), place / "whole"))
    chance = random.Random(seed)
    for until in (chance.randint(5, 15), chance.randint(17, 35)):
        command = [sys.executable, "-c", KILLED, "killed", *changes]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=place)
        with running:
            for line in running.stdout:
                if int(line) >= until:
                    time.sleep(chance.uniform(0, 0.03))
                    running.send_signal(signal.SIGKILL)
                    break
        assert running.returncode == -signal.SIGKILL
    resumed = train(recipe(*changes), place / "killed", resume=True)
    begun_at = next(resumed).step
    assert begun_at >= until - 2
    rest = told(resumed)
    assert rest == whole[-len(rest) :]
    assert rest[0][1] in (begun_at, begun_at + 1)  # a validation that was still owed, or the next step
    assert weights(place / "killed") == weights(place / "whole")


# --- the loop's other ways --------------------------------------------------------------------------------------------


def losses_of(events) -> list[float]:
    return [event.loss for event in events if isinstance(event, Stepped | Validated)]


@pytest.mark.parametrize("changes", [["training.micro_batches=3"], ["training.activation_checkpointing=true"]])
def test_less_memory_and_the_same_losses(place, changes):
    exact = ["training.batch_tokens=200", "model.dropout=0.0"]
    whole = losses_of(train(recipe(*exact), place / "whole"))
    assert losses_of(train(recipe(*exact, *changes), place / "parts")) == pytest.approx(whole, rel=1e-4)


def test_activation_checkpointing_draws_the_same_random_numbers(place):
    whole = losses_of(train(recipe(), place / "whole"))
    again = losses_of(train(recipe("training.activation_checkpointing=true"), place / "again"))
    assert again == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("inverse_sqrt", [0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5]),
        ("linear", [0.5, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", [0.5, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("halving", [0.5, 1, 1, 0.5, 0.25]),
        ("slanted", [1 / 32, 1, 1 - 31 / 32 / 9, 1 - 2 * 31 / 32 / 9, 1 - 3 * 31 / 32 / 9]),
        ("constant", [0.5, 1, 1, 1, 1]),
    ],
)
def test_a_recipe_reaches_every_schedule(place, schedule, shares):
    """The rates of its first steps by hand, of a warm-up of two steps and five in all (slanted: ten, its peak at 1)."""
    changes = [f"training.schedule={schedule}", "training.warmup_steps=2", "training.halve_after=3"]
    steps = 10 if schedule == "slanted" else 5
    changes += ["training.halve_every=1", f"training.max_steps={steps}", "cost.energy=false"]
    rates = [event.rate for event in train(recipe(*changes), place / "run") if isinstance(event, Stepped)]
    assert rates[:5] == pytest.approx([0.01 * share for share in shares])


@pytest.mark.parametrize(
    "changes",
    [
        ["training.ema_decay=0.9"],
        ["training.micro_batches=2", "training.activation_checkpointing=true"],
        ["training.optimizer=adadelta", "training.learning_rate=1.0"],
        ["training.optimizer=sgd", "training.schedule=halving", "training.halve_every=4"],
    ],
    ids=["mean of weights", "micro-batches", "adadelta", "sgd"],
)
def test_each_goes_on_bit_for_bit(place, changes):
    whole = told(train(recipe(*changes), place / "whole"))
    begun, events = train(recipe(*changes), place / "run"), []
    for event in begun:
        events.append(event)
        if len(events) == 14:
            begun.close()
    assert told(events) + told(train(recipe(*changes), place / "run", resume=True)) == whole
    assert weights(place / "run") == weights(place / "whole")


def test_the_meter_goes_on_too(place):
    begun = train(recipe(), place / "run")
    for event in begun:
        if isinstance(event, Stepped) and event.step == 5:
            begun.close()
    events = list(train(recipe(), place / "run", resume=True))
    whole = list(train(recipe(), place / "whole"))
    ours, theirs = ([event for event in one if isinstance(event, Measured)][-1] for one in (events, whole))
    assert (ours.tokens, ours.flops, ours.seen) == (theirs.tokens, theirs.flops, theirs.seen)
    assert ours.tokens == sum(event.tokens for event in whole if isinstance(event, Stepped))
    ours, theirs = ([event for event in one if isinstance(event, Validated)] for one in (events, whole))
    assert [event.train_loss for event in ours] == [event.train_loss for event in theirs]


def test_a_run_that_went_back_judges_as_it_did_the_first_time(place):
    changes = ("training.checkpoint_every=3", "training.validate_every=2", "training.max_steps=8")
    whole = [event for event in train(recipe(*changes), place / "run") if isinstance(event, Validated)]
    (place / "run" / "checkpoint.previous.safetensors").rename(place / "run" / "checkpoint.safetensors")
    again = [event for event in train(recipe(*changes), place / "run", resume=True) if isinstance(event, Validated)]
    assert 0 < len(again) < len(whole)
    assert [event.verdict for event in again] == [event.verdict for event in whole[-len(again) :]]


# --- nothing is lost --------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_told_and_the_one_before_gone_on_from(place):
    whole = told(train(recipe("training.checkpoint_every=3"), place / "whole"))
    begun = train(recipe("training.checkpoint_every=3"), place / "run")
    for event in begun:
        if isinstance(event, Stepped) and event.step == 7:
            begun.close()  # leaves one of step 7 beside that of step 6
    last = place / "run" / "checkpoint.safetensors"
    bytes_ = bytearray(last.read_bytes())
    bytes_[-5] ^= 1  # one bit of one weight
    last.write_bytes(bytes_)
    resumed = train(recipe("training.checkpoint_every=3"), place / "run", resume=True)
    first = next(resumed)
    assert first.step == 6
    assert "is damaged: its digest is another one; going on from the one before it, of step 6" in first.note
    rest = told(resumed)
    assert rest == whole[-len(rest) :]
    assert weights(place / "run") == weights(place / "whole")


def test_a_full_disk_keeps_the_last_checkpoint(place, monkeypatch):
    whole = told(train(recipe("training.checkpoint_every=3"), place / "whole"))
    running = train(recipe("training.checkpoint_every=3"), place / "run")
    for event in running:
        if isinstance(event, Stepped) and event.step == 5:
            break

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("regard.training.checkpoints.save_file", full)
        with pytest.raises(RegardError, match=r"cannot write .*No space left.*; the last good checkpoint is of step 3"):
            list(running)
    rest = told(train(recipe("training.checkpoint_every=3"), place / "run", resume=True))
    assert rest[0][:2] == ("step", 4)
    assert rest == whole[-len(rest) :]


def test_a_batch_whose_loss_is_no_number_is_written_down_and_the_run_goes_on_from_before_it(place, monkeypatch):
    whole = told(train(recipe(), place / "whole"))
    from regard.training.tasks.text_to_text import TextToTextTask

    right, calls = TextToTextTask.loss, []

    def wrong(self, model, batch, smoothing):
        loss, plain = right(self, model, batch, smoothing)
        calls.append(model.training)
        return (loss, plain * float("nan")) if sum(calls) == 6 else (loss, plain)

    with monkeypatch.context() as patched:
        patched.setattr(TextToTextTask, "loss", wrong)
        with pytest.raises(RegardError, match=r"the loss is nan at step 6: .*checkpoint, of step 5; the batch is in"):
            list(train(recipe(), place / "run"))
    saved = json.loads((place / "run" / "failed-step-6.json").read_text())
    assert saved["step"] == 6
    assert len(saved["examples"]) == len(saved["batch"]["source"])
    rest = told(train(recipe(), place / "run", resume=True))
    assert rest == whole[-len(rest) :]
    assert rest[0][:2] == ("step", 6)


SPELT = ("tokenizer.kind=symbols", "second_opinion.order=2")


def test_a_second_opinion_is_learnt_kept_and_told(place: Path):
    said = {"cat": "K AE1 T", "tack": "T AE1 K", "act": "AE1 K T", "attack": "AH0 T AE1 K"}
    (place / "pairs.tsv").write_text("".join(f"{word}\t{sound}\n" for word, sound in said.items()))
    *_, last = train(recipe(*SPELT), place / "run")
    folder = Path(last.folder)
    assert (folder / "second_opinion.safetensors").is_file()
    card = (folder / "README.md").read_text()
    assert "0.75 log P(model) + 0.25 log P(joint model)" in " ".join(card.split())
    assert "--beams 2" in card
    again = regard.load(str(folder))
    word = "attack"
    [found] = again.hypotheses([word], beams=4)
    again.opinion = None
    [alone] = again.hypotheses([word], beams=4)
    assert {one.tokens for one in found} == {one.tokens for one in alone}
    assert [one.score for one in found] != [one.score for one in alone]


def test_a_second_opinion_needs_symbols():
    with pytest.raises(RegardError, match=r"second_opinion is for text-to-text with tokenizer.kind symbols"):
        recipe("second_opinion.order=2")
