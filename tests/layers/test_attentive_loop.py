"""The native loop of RNNsearch's decoder beside the plain one: what it says and what it learns is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.models import rnnsearch
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.native import library
from regard.sequences import Sequences

needs_kernels = pytest.mark.skipif(library() is None, reason="the native kernels are not built")
WORDS = 11


def learnt(native, pairs, sizes, narrow=False, threads=1):
    """Scores and the gradients of all weights."""
    torch.manual_seed(2)
    embedding, hidden, attention = sizes
    names = {"embedding_size": embedding, "hidden_size": hidden, "attention_size": attention, "maxout_size": 6}
    model = RNNSearch(RNNSearchConfig(vocab_size=WORDS, **names))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    sources, targets = (Sequences.of([torch.randint(WORDS, (pair[side],)) for pair in pairs]) for side in (0, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patched:
        if not native:
            patched.setattr(rnnsearch, "loops_fast", lambda _: False)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            logits = model(sources, targets)
        loss = (logits.float() * torch.randn(logits.shape)).sum()
        found = [logits.detach().float(), *torch.autograd.grad(loss, list(model.parameters()))]
    torch.set_num_threads(before)
    return found


lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=6).filter(
    lambda pairs: any(target for _, target in pairs)
)


@needs_kernels
@given(lengths, st.tuples(*(st.integers(1, 20),) * 3), st.integers(1, 2))
def test_the_native_loop_equals_the_plain_one(pairs, sizes, threads):
    plain, native = learnt(False, pairs, sizes), learnt(True, pairs, sizes, threads=threads)
    for one, other in zip(plain, native, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * max(1.0, float(one.abs().max())))


@needs_kernels
def test_in_bfloat16_both_are_as_near_to_float32():
    pairs, sizes = [(9, 5), (3, 8), (14, 2)], (12, 16, 20)
    exact = learnt(False, pairs, sizes)
    for true, *rounded in zip(
        exact, *(learnt(native, pairs, sizes, narrow=True) for native in (False, True)), strict=True
    ):
        plain, native = ((one - true).norm() / true.norm() for one in rounded)
        assert native < max(1.5 * plain, 0.01) < 0.2
