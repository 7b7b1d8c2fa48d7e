"""The smoothed cross-entropy is what PyTorch computes, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from regard.native import library
from regard.training import objectives
from regard.training.objectives import smoothed_cross_entropy


@pytest.fixture(autouse=True, scope="module", params=["native code", "PyTorch"])
def way(request):
    """Both ways of computing it."""
    if request.param == "native code" and library() is None:
        pytest.skip("the native kernels are not built")
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "PyTorch":
            patched.setattr(objectives, "library", lambda: None)
        yield


def both(logits, answers, smoothing):
    """(ours, PyTorch's), each as (smoothed loss, plain loss, gradient of three times the smoothed loss)."""
    for smoothed, plain, leaf in (
        (*smoothed_cross_entropy(ours := logits.clone().requires_grad_(), answers, smoothing), ours),
        (
            F.cross_entropy(theirs := logits.float().requires_grad_(), answers, label_smoothing=smoothing),
            F.cross_entropy(logits.float(), answers),
            theirs,
        ),
    ):
        (3 * smoothed).backward()
        yield smoothed.detach(), plain, leaf.grad


@given(tokens=st.integers(1, 23), vocabulary=st.integers(2, 29), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_equals_pytorch(tokens, vocabulary, smoothing):
    logits, answers = 3 * torch.randn(tokens, vocabulary), torch.randint(vocabulary, (tokens,))
    for mine, other in zip(*both(logits, answers, smoothing), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_equals_pytorch_where_the_logits_do_not_fit_into_the_cache():
    logits, answers = torch.randn(211, 4099), torch.randint(4099, (211,))
    for mine, other in zip(*both(logits, answers, 0.1), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-8)


def test_large_logits_give_numbers():
    smoothed, plain = smoothed_cross_entropy(torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([1]), 0.1)
    assert plain.item() == pytest.approx(2e4)
    assert smoothed.isfinite()


def test_bfloat16_logits_are_summed_in_float32():
    logits, answers = torch.randn(31, 37).bfloat16(), torch.randint(37, (31,))
    (smoothed, plain, gradient), (their_smoothed, their_plain, their_gradient) = both(logits, answers, 0.1)
    torch.testing.assert_close(smoothed, their_smoothed)
    torch.testing.assert_close(plain, their_plain)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), their_gradient, rtol=1e-2, atol=1e-6)


def test_an_answer_that_is_no_word_is_refused():
    with pytest.raises(RuntimeError, match="out of bounds"):
        smoothed_cross_entropy(torch.randn(2, 5), torch.tensor([0, 5]), 0.1)


def test_a_logit_that_is_no_number_makes_the_loss_none():
    logits = torch.zeros(2, 5)
    logits[1, 3] = float("nan")
    assert smoothed_cross_entropy(logits, torch.tensor([0, 1]), 0.1)[0].isnan()


def test_a_second_derivative_from_one_loss_is_refused():
    logits = torch.randn(2, 5, requires_grad=True)
    loss, _ = smoothed_cross_entropy(logits, torch.tensor([0, 1]), 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_plain_loss_has_no_gradient():
    _, plain = smoothed_cross_entropy(torch.randn(3, 5, requires_grad=True), torch.tensor([0, 1, 4]), 0.1)
    assert not plain.requires_grad
