"""A student learns from its teacher: the losses by independent code, and that they fall."""

import json
import random

import pytest
import torch
import torch.nn.functional as F

import regard
from regard import RegardError, Sequences
from regard.models.bert import Bert, BertConfig
from regard.training.events import Stepped
from regard.training.recipe import parse_recipe
from regard.training.tasks import task_of
from regard.training.tasks.distillation import relation_loss, relations_of, soft_target_loss
from regard.training.trainer import train

WORDS = {"good": "up", "fine": "up", "bad": "down", "poor": "down"}
SIZE = "hidden_size = {width}\nnum_hidden_layers = {layers}\nnum_attention_heads = 4\nintermediate_size = 32\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place, chance = tmp_path_factory.mktemp("data"), random.Random(1)
    for part, count in (("train", 80), ("valid", 8), ("test", 8)):
        words = [chance.choice(list(WORDS)) for _ in range(count)]
        rows = [json.dumps({"text": f"this is {word} indeed", "label": WORDS[word]}) + "\n" for word in words]
        (place / f"{part}.jsonl").write_text("".join(rows))
    return place


def recipe(data, task, steps, width=16, layers=1, more="", kind="bert"):
    model = f'type = "bert"\n{SIZE.format(width=width, layers=layers)}max_position_embeddings = 32'
    if kind == "gpt":
        model = f'type = "gpt"\nn_embd = {width}\nn_layer = {layers}\nn_head = 4\nn_positions = 32'
    text = f"""
name = "tiny"
task = "{task}"
[data]
train = "{data}/train.jsonl"
valid = "{data}/valid.jsonl"
test = "{data}/test.jsonl"
max_tokens = 16
[tokenizer]
kind = "wordpiece"
vocab_size = 301
[model]
{model}
[training]
max_steps = {steps}
batch_tokens = 128
schedule = "constant"
learning_rate = 0.005
warmup_steps = 5
validate_every = {steps}
label_smoothing = 0.0
{more}
"""
    return parse_recipe(text, "tiny.toml", [])


@pytest.mark.parametrize(
    ("task", "kind"),
    [("classification", "bert"), ("masked-words", "bert"), ("language-model", "gpt"), ("classification", "gpt")],
)
def test_a_student_comes_to_answer_as_its_teacher(data, tmp_path, task, kind):
    list(train(recipe(data, task, 15, layers=2, kind=kind), tmp_path / "teacher"))
    more = f'[distillation]\nteacher = "{tmp_path}/teacher"\ntask = 0.0\nhidden_states = 1.0\nattention_relations = 1.0'
    chosen = recipe(data, task, 25, kind=kind, more=more)
    made = task_of(chosen)
    student = made.make_model()
    batch = made.train.batch(made.train.plan(64, 1, 0)[0])
    torch.manual_seed(1)
    before = float(made.loss(student.train(), batch, 0.0)[0].detach())
    list(train(chosen, tmp_path / "student"))
    after = regard.load(str(tmp_path / "student")).model
    torch.manual_seed(1)
    assert float(made.loss(after.train(), batch, 0.0)[0].detach()) < 0.7 * before


def test_a_narrower_student_learns_a_map_that_its_folder_does_not_hold(data, tmp_path):
    """TinyBERT, equation 8: the mean squared difference of H W and the teacher's hidden states."""
    list(train(recipe(data, "classification", 5, layers=2), tmp_path / "teacher"))
    more = f'[distillation]\nteacher = "{tmp_path}/teacher"\ntask = 0.0\nsoft_targets = 0.0\nhidden_states = 3.0'
    chosen = recipe(data, "classification", 20, width=8, more=more)
    made = task_of(chosen)
    student, teacher = made.make_model().train(), made.teacher
    batch = made.train.batch(made.train.plan(64, 1, 0)[0])
    states = []
    for model in (student, teacher):
        layer = model.encoder.layers[-1]
        hook = layer.register_forward_hook(lambda _, __, output: states.append(output.values))
        torch.manual_seed(1)
        made.task.scores(model, batch)
        hook.remove()
    torch.manual_seed(1)
    loss = made.loss(student, batch, 0.0)[0]
    expected = 3 * F.mse_loss(states[0] @ student.learning.weight.T, states[1])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert float(student.learning.weight.grad.abs().sum()) > 0

    whole = [event.loss for event in train(chosen, tmp_path / "whole") if isinstance(event, Stepped)]
    assert whole[0] > 0
    begun, losses = train(chosen, tmp_path / "run"), []
    for event in begun:
        if isinstance(event, Stepped) and (losses.append(event.loss) or event.step == 9):
            begun.close()
    rest = train(chosen, tmp_path / "run", resume=True)
    assert losses + [event.loss for event in rest if isinstance(event, Stepped)] == whole
    loaded = regard.load(str(tmp_path / "run")).model
    assert not hasattr(loaded, "learning")
    assert loaded.count_parameters() == student.count_parameters()


def test_soft_targets_are_cross_entropy_less_the_teachers_own():
    own, theirs = torch.randn(5, 7), torch.randn(5, 7)
    right = (theirs / 3).softmax(dim=1)
    expected = 9 * (F.cross_entropy(own / 3, right) - F.cross_entropy(theirs / 3, right))
    torch.testing.assert_close(soft_target_loss(own, theirs, 3.0), expected)
    assert float(soft_target_loss(own, own, 3.0)) == pytest.approx(0, abs=1e-6)


def test_relations_are_those_of_each_text_alone():
    model = Bert(BertConfig(vocab_size=20, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, heads=()))
    attention = model.encoder.layers[0].self_attention
    x = Sequences.of([torch.randn(4, 12), torch.randn(2, 12)])
    together = relations_of(attention, x, 2)
    for part, name in zip(together, ("queries", "keys", "values"), strict=True):
        expected = []
        for row in x:
            split = attention.steps(row, row)[name].transpose(0, 1).reshape(len(row), 2, 6).transpose(0, 1)
            relation = (split @ split.transpose(1, 2) / 6**0.5).log_softmax(dim=-1)
            expected.append(F.pad(relation, (0, 4 - len(row)), value=float("-inf")).flatten(0, 1).exp())
        torch.testing.assert_close(part.exp(), torch.cat(expected))
    assert float(relation_loss(together, together).detach()) == pytest.approx(0, abs=1e-6)


def test_what_does_not_go_together_is_told(data, tmp_path):
    list(train(recipe(data, "classification", 1), tmp_path / "teacher"))
    more = f'[distillation]\nteacher = "{tmp_path}/teacher"\n'
    with pytest.raises(RegardError, match="has another labels than the student"):
        task_of(recipe(data, "masked-words", 1, more=more)).make_model()
