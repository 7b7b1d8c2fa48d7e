"""A checkpoint brings a run back bit for bit, and is never half written."""

import errno

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regard import RegardError
from regard.training import checkpoints
from regard.training.optimizers import optimizers_of
from regard.training.recipe import parse_recipe

RECIPE = parse_recipe('name = "tiny"\n[data]\nsource = "cmudict"\n[model]\nd_model = 8\n', "tiny.toml", [])


def begun(optimizer="adam"):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 3))
    optimizers = optimizers_of(model, RECIPE.training.model_copy(update={"optimizer": optimizer, "weight_decay": 0.1}))
    for one in optimizers:
        for group in one.param_groups:
            group["lr"] = 0.01
    return model, optimizers


def step(model, optimizers, number):
    torch.manual_seed(number)  # as in training, random numbers follow from the step
    loss = model(torch.randn(11, 5)).square().mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_restored_run_goes_on_with_the_same_numbers(tmp_path, name):
    path = tmp_path / "checkpoint.safetensors"
    model, optimizers = begun(name)
    snapshots = [{name: value.clone() for name, value in model.state_dict().items()}]
    for number in range(3):
        step(model, optimizers, number)
    checkpoints.save_checkpoint(path, checkpoints.tensors_of(model, optimizers, snapshots), {"step": 3, "best": None})
    went_on = [step(model, optimizers, number) for number in range(3, 6)]

    tensors, facts = checkpoints.load_checkpoint(path)
    model, optimizers = begun(name)
    torch.randn(100)
    restored = checkpoints.restore(model, optimizers, tensors)
    assert [step(model, optimizers, number) for number in range(3, 6)] == went_on
    assert facts == {"step": 3, "best": None}
    assert len(restored) == 1
    for name, value in snapshots[0].items():
        assert torch.equal(restored[0][name], value)


def test_facts_may_be_infinite(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.save_checkpoint(path, {"one": torch.ones(1)}, {"best": float("-inf")})
    assert checkpoints.load_checkpoint(path)[1]["best"] == float("-inf")


def test_one_tensor_under_two_names(tmp_path):
    path, shared = tmp_path / "checkpoint.safetensors", torch.randn(3)
    checkpoints.save_checkpoint(path, {"one": shared, "two": shared}, {})
    assert torch.equal(checkpoints.load_checkpoint(path)[0]["two"], shared)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, failure):
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.save_checkpoint(path, {"weight": torch.tensor([1.0])}, {"step": 1})

    def half(tensors, aside, metadata):
        aside.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(checkpoints, "save_file", half)
    with pytest.raises((RegardError, KeyboardInterrupt)):
        checkpoints.save_checkpoint(path, {"weight": torch.tensor([2.0])}, {"step": 2})
    tensors, facts = checkpoints.load_checkpoint(path)
    assert tensors["weight"].item() == facts["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x" * 99])
def test_a_damaged_checkpoint_is_told(tmp_path, damage):
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.save_checkpoint(path, {"weight": torch.randn(100)}, {"step": 1})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RegardError, match=r"the checkpoint .*checkpoint\.safetensors is damaged"):
        checkpoints.load_checkpoint(path)


def test_weights_that_are_no_checkpoint_are_told(tmp_path):
    save_file({"weight": torch.randn(3)}, tmp_path / "model.safetensors")
    with pytest.raises(RegardError, match="is damaged"):
        checkpoints.load_checkpoint(tmp_path / "model.safetensors")


def test_no_checkpoint_to_resume_from(tmp_path):
    with pytest.raises(RegardError, match="there is no checkpoint .* to resume from"):
        checkpoints.check_resumable(tmp_path, RECIPE)


def test_a_run_is_resumed_with_its_own_model_only(tmp_path):
    facts = {"recipe": RECIPE.model_dump(mode="json")}
    checkpoints.save_checkpoint(tmp_path / checkpoints.CHECKPOINT, {"one": torch.ones(1)}, facts)
    checkpoints.check_resumable(tmp_path, RECIPE)
    longer = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"max_steps": 9})})
    checkpoints.check_resumable(tmp_path, longer)
    wider = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"d_model": 16})})
    with pytest.raises(RegardError, match=r"was begun with another \[model\]"):
        checkpoints.check_resumable(tmp_path, wider)


def test_the_average_is_the_mean_of_each_weight():
    snapshots = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 2.0])}, {"a": torch.tensor([5.0, 5.0])}]
    assert checkpoints.average(snapshots)["a"].tolist() == [3.0, 3.0]
