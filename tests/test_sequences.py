"""Ragged batches: to rows and back, positions, gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from regard.sequences import Layout, Sequences

LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=6)


def ragged(lengths, *rest):
    return Sequences(torch.randn(sum(lengths), *rest), Layout(tuple(lengths), torch.device("cpu")))


def test_two_sentences_by_hand():
    batch = Sequences.of([torch.tensor([5, 6, 7]), torch.tensor([8])])
    assert batch.values.tolist() == [5, 6, 7, 8]
    assert batch.pad(fill=9).tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.layout.positions.tolist() == [0, 1, 2, 0]
    assert batch.layout.rows.tolist() == [0, 0, 0, 1]
    assert batch.layout.offsets.tolist() == [0, 3, 4]
    assert batch.layout.slots.tolist() == [0, 1, 2, 3]
    assert [row.tolist() for row in batch] == [[5, 6, 7], [8]]


@given(lengths=LENGTHS)
def test_padding_and_back_changes_nothing(lengths):
    batch = ragged(lengths, 2, 3)
    padded = batch.pad()
    assert padded.shape == (len(lengths), max(lengths), 2, 3)
    assert torch.equal(batch.layout.unpad(padded), batch.values)
    assert torch.equal(Sequences.of_padded(padded, lengths).values, batch.values)
    assert int(batch.layout.present.sum()) == sum(lengths)
    assert (padded[~batch.layout.present] == 0).all()


@given(lengths=LENGTHS.filter(any))
def test_gradients_pass_through_padding_and_back(lengths):
    batch = ragged(lengths, 3)
    values = batch.values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: batch.layout.pad(x) ** 2, values)
    padded = batch.layout.pad(values).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: batch.layout.unpad(x) ** 2, padded)


@given(lengths=LENGTHS)
def test_a_row_is_its_sequence(lengths):
    batch = ragged(lengths)
    for row, sequence in enumerate(batch):
        assert torch.equal(batch[row], sequence)
        assert len(sequence) == lengths[row]


@pytest.mark.parametrize("lengths", [(3, 3), (4,), (0, 0)])
def test_even_batches_are_padded_without_a_copy(lengths):
    batch = ragged(lengths, 5)
    assert batch.layout.even
    assert batch.pad(fill=9).shape == (len(lengths), max(lengths), 5)
    assert batch.pad(fill=9).data_ptr() == batch.layout.unpad(batch.pad()).data_ptr() == batch.values.data_ptr()


@given(lengths=LENGTHS)
def test_what_pad_fills_is_where_no_token_is(lengths):
    batch = ragged(lengths, 3)
    padded = batch.pad(fill=-7)
    assert (padded == -7).all(-1).equal(~batch.layout.present)


def test_shapes_are_checked_while_the_tests_run():
    layout = Layout((2, 1), torch.device("cpu"))
    for wrong in (lambda: layout.pad(torch.tensor(1.0)), lambda: layout.unpad(torch.ones(3))):
        with pytest.raises(TypeCheckError):
            wrong()


def test_what_cannot_be_a_batch_is_refused():
    with pytest.raises(ValueError, match="3 values, but the lengths add up to 4"):
        Sequences(torch.zeros(3), Layout((2, 2), torch.device("cpu")))
    with pytest.raises(ValueError, match="at least one sequence"):
        Sequences.of([])
    with pytest.raises(ValueError, match="must not be negative"):
        Layout((2, -1), torch.device("cpu"))
