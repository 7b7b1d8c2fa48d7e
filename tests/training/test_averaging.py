"""NT-ASGD: when averaging begins, and what is averaged."""

import pytest
import torch
from torch import nn

from regard.training.averaging import NonMonotonicAveraging, averaging_begins


def test_averaging_begins_when_it_has_not_got_better_for_a_while():
    falling = [5.0, 4.0, 3.0, 2.0]
    assert not any(averaging_begins(falling[:count], patience=1) for count in (1, 2, 3, 4))
    assert not averaging_begins([3.0, 2.0, 2.5], patience=1)  # worse than the last one, but that one is too young
    assert averaging_begins([3.0, 2.0, 1.9, 2.5], patience=1)
    assert not averaging_begins([1.0, 2.0, 3.0], patience=3)  # too few to compare with
    assert averaging_begins([1.0, 2.0, 3.0, 4.0, 1.1], patience=3)


def asgd(weight: nn.Parameter, rate: float) -> torch.optim.Optimizer:
    return torch.optim.ASGD([weight], lr=rate, lambd=0.0, t0=float("inf"))


def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer, slope: float) -> None:
    weight.grad = torch.full_like(weight, slope)
    optimizer.step()


def test_it_is_plain_sgd_first_and_the_mean_of_what_follows_later():
    weight = nn.Parameter(torch.zeros(3))
    training = NonMonotonicAveraging(asgd(weight, 0.5), patience=1)
    for slope in (1.0, -2.0):
        step(weight, training.optimizer, slope)
        with training.averaged():  # nothing is averaged yet
            assert torch.equal(weight, torch.full((3,), -0.5 if slope == 1.0 else 0.5))
    for loss in (3.0, 2.0, 4.0, 5.0):
        training.after_validation(loss)
    assert training.averaging
    values = []
    for slope in (1.0, 3.0, -4.0, 2.0):
        step(weight, training.optimizer, slope)
        values.append(weight.clone())
    mean = torch.stack(values[1:]).mean(dim=0)  # PyTorch's ASGD takes the second value as the first of its mean
    last = weight.clone()
    with training.averaged():
        assert torch.allclose(weight, mean)
        assert weight.requires_grad
        assert torch.is_grad_enabled()
    assert torch.equal(weight, last)
    again = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([again], lr=0.5)
    for slope in (1.0, -2.0, 1.0, 3.0, -4.0, 2.0):
        step(again, optimizer, slope)
    assert torch.allclose(last, again)


def test_what_was_comes_back_after_an_error():
    weight = nn.Parameter(torch.zeros(2))
    training = NonMonotonicAveraging(asgd(weight, 1.0))
    step(weight, training.optimizer, 1.0)
    training.optimizer.state[weight]["ax"].fill_(7.0)
    with pytest.raises(KeyError), training.averaged():
        assert weight.tolist() == [7.0, 7.0]
        raise KeyError
    assert weight.tolist() == [-1.0, -1.0]


def test_the_exponential_mean_is_that_of_the_formula_and_comes_back():
    from regard.training.averaging import ExponentialAveraging

    model = torch.nn.Linear(1, 1, bias=False)
    weight = model.weight
    weight.data.fill_(0.0)
    averaging = ExponentialAveraging(dict(model.named_parameters()), decay=0.25)
    mean = 0.0
    for step, value in enumerate((8.0, 4.0, 16.0), start=1):
        weight.data.fill_(value)
        averaging.after_step()
        decay = min(0.25, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
        with averaging.averaged():
            assert weight.item() == pytest.approx(mean)
        assert weight.item() == value
    other = ExponentialAveraging(dict(torch.nn.Linear(1, 1, bias=False).named_parameters()), decay=0.25)
    other.restore(averaging.facts(), averaging.tensors())
    assert (other.steps, float(other.means["weight"])) == (3, pytest.approx(mean))
