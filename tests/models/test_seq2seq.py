"""Sequence to sequence against PyTorch's LSTM on the same weights, and the ways to run it against each other."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from regard.errors import RegardError
from regard.generation.search import Generator, Search, search
from regard.models.seq2seq import PRESETS, Seq2Seq, Seq2SeqConfig
from regard.sequences import Sequences

SIZES = {"vocab_size": 29, "embedding_size": 11, "hidden_size": 13, "num_hidden_layers": 3}
SOURCES = [[5, 6, 7, 8, 2], [9, 2], [11, 12, 13, 2]]
TARGETS = [[1, 4, 5], [1, 10, 11, 12, 13, 14], [1]]


def built(**changes: object) -> Seq2Seq:
    model = Seq2Seq(Seq2SeqConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # so that a wrong gate shows
    return model


def twins_of(stack: nn.Module) -> nn.ModuleList:
    twins = nn.ModuleList()
    for layer in stack.layers:
        twin = nn.LSTM(layer.input_weight.shape[1], layer.width, batch_first=True)
        weights = {"weight_ih_l0": layer.input_weight, "weight_hh_l0": layer.hidden_weight}
        twin.load_state_dict(weights | {"bias_ih_l0": layer.input_bias, "bias_hh_l0": layer.hidden_bias})
        twins.append(twin)
    return twins


def run(twins: nn.ModuleList, rows: list[torch.Tensor], states: list | None = None) -> tuple[list, list]:
    """Padded rows through PyTorch's layers: what each gives, and the state it ends with."""
    lengths, x = torch.tensor([len(row) for row in rows]), pad_sequence(rows, batch_first=True)
    outputs, ended = [], []
    for number, twin in enumerate(twins):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, last = twin(packed, states[number] if states else None)
        x = pad_packed_sequence(packed, batch_first=True)[0]
        outputs.append(x)
        ended.append(last)
    return outputs, ended


@pytest.mark.parametrize(
    "changes",
    [{}, {"reverse_source": False}, {"target_vocab_size": 17}, {"num_hidden_layers": 1, "embedding_size": 13}],
    ids=str,
)
def test_the_same_as_pytorchs_layers_with_gradients(changes):
    model = built(**changes)
    config = model.config
    entered, left = {}, {}
    for name, layer in model.named_modules():
        if ".layers." in name and name.count(".") == 2:
            layer.register_forward_hook(lambda _, inputs, output, name=name: left.__setitem__(name, output[0]))
            layer.register_forward_pre_hook(lambda _, inputs, name=name: entered.__setitem__(name, inputs[0]))
    targets = [[token % 17 for token in row] for row in TARGETS]
    logits = model(Sequences.of_ids(SOURCES), Sequences.of_ids(targets))

    encoder, decoder = twins_of(model.encoder), twins_of(model.decoder)
    source_embedding = nn.Embedding.from_pretrained(model.embedding.weight.detach().clone(), freeze=False)
    matrix = (model.embedding if config.target_vocab_size is None else model.target_embedding).weight
    target_embedding = nn.Embedding.from_pretrained(matrix.detach().clone(), freeze=False)
    rows = [source_embedding(torch.tensor(row[::-1] if config.reverse_source else row)) for row in SOURCES]
    encoded, states = run(encoder, rows)
    decoded, _ = run(decoder, [target_embedding(torch.tensor(row)) for row in targets], states)
    hidden = torch.cat([row[: len(target)] for row, target in zip(decoded[-1], targets, strict=True)])
    other = hidden @ model.output.weight.detach().T + model.output.bias.detach()
    assert (logits - other).abs().max() < 1e-5

    for number in range(config.num_hidden_layers):  # hidden states of all layers
        for row, source in enumerate(SOURCES):
            theirs = encoded[number][row][: len(source)]
            theirs = theirs.flip(0) if config.reverse_source else theirs
            assert torch.allclose(left[f"encoder.layers.{number}"][row], theirs, atol=1e-5)
            theirs = decoded[number][row][: len(targets[row])]
            assert torch.allclose(left[f"decoder.layers.{number}"][row], theirs, atol=1e-5)
    assert len(entered) == 2 * config.num_hidden_layers

    answers = torch.randint(0, 17, (len(other),))
    nn.functional.cross_entropy(logits, answers).backward()
    nn.functional.cross_entropy(other, answers).backward()
    for ours, theirs in zip([*model.encoder.layers, *model.decoder.layers], [*encoder, *decoder], strict=True):
        assert torch.allclose(ours.hidden_weight.grad, theirs.weight_hh_l0.grad, atol=1e-5)
        assert torch.allclose(ours.input_weight.grad, theirs.weight_ih_l0.grad, atol=1e-5)
        assert torch.allclose(ours.input_bias.grad, theirs.bias_ih_l0.grad, atol=1e-5)
    expected = source_embedding.weight.grad
    if config.target_vocab_size is None:
        expected = expected + target_embedding.weight.grad
    else:
        assert torch.allclose(model.target_embedding.weight.grad, target_embedding.weight.grad, atol=1e-5)
    assert torch.allclose(model.embedding.weight.grad, expected, atol=1e-5)


def test_every_layer_equals_its_steps():
    model = built()
    memory = model.encode(Sequences.of_ids(SOURCES))
    calls = []
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda layer, inputs, output: calls.append((layer, *inputs, output)))
    model.decode(Sequences.of_ids(TARGETS), memory)
    assert len(calls) == 3
    for layer, x, state, (output, _) in calls:
        for row in range(3):
            steps = layer.steps(x[row], slice(None), state.select(torch.tensor([row])))
            assert torch.allclose(steps["output"], output[row], atol=1e-5)


def test_the_paper_s_model_has_the_paper_s_size():
    with torch.device("meta"):
        found = Seq2Seq(PRESETS["seq2seq-4x1000"]).count_parameters()
    biases = 8 * 2 * 4000 + 80_000  # two a layer as in PyTorch's kernels, and one of the output
    assert found == 384_000_000 + biases  # "384M parameters" (section 3.4)


def test_weights_begin_uniform_within_008():
    model = Seq2Seq(Seq2SeqConfig(**SIZES))
    for name, parameter in model.named_parameters():
        assert parameter.abs().max() <= 0.08, name
        assert parameter.abs().max() > 0.06, name


@pytest.mark.parametrize("changes", [{}, {"reverse_source": False, "target_vocab_size": 17}], ids=str)
def test_ragged_equals_one_by_one(changes):
    model = built(**changes)
    targets = [[token % 17 for token in row] for row in TARGETS]
    together = model(Sequences.of_ids(SOURCES), Sequences.of_ids(targets))
    alone = [model(Sequences.of_ids([one]), Sequences.of_ids([two])) for one, two in zip(SOURCES, targets, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_token_by_token_equals_all_at_once():
    model = built()
    target = torch.randint(3, 29, (3, 9))
    together = model(Sequences.of_ids(SOURCES), Sequences.of(list(target))).view(3, 9, -1)
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    state = model.start(Sequences.of_ids(SOURCES)).select(rows)
    for position in range(9):
        logits, state = model.step(target[rows, position], state)
        assert torch.allclose(logits, together[rows, position], atol=1e-5)
        if position == 3:
            kept = torch.tensor([5, 0, 1, 1])
            rows, state = rows[kept], state.select(kept)


@pytest.mark.parametrize("beams", [1, 3])
def test_search_finds_what_the_model_says(beams):
    model = built()
    assert isinstance(model, Generator)
    source = Sequences.of_ids(SOURCES)
    found = search(model, source, Search(bos=1, eos=2, beams=beams, limit=6, forbidden=(0, 1)))
    for row, answers in enumerate(found):
        for answer in answers:
            target = [*answer.tokens, 2] if answer.finished else [*answer.tokens]
            logits = model(Sequences.of_ids([SOURCES[row]]), Sequences.of_ids([[1, *target[:-1]]]))
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum()
            assert answer.log_probability == pytest.approx(chosen.item(), abs=1e-4)
            if beams == 1:
                logits[:, :2] = -torch.inf
                assert logits.argmax(-1).tolist() == target


def test_a_source_without_a_token_is_refused():
    with pytest.raises(RegardError, match="at least one token"):
        built().start(Sequences.of_ids([[3], []]))


def test_dropout_is_for_training_only():
    model = built(dropout=0.5)
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS)
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    assert not torch.equal(model(*batch), model(*batch))


def test_saved_and_loaded(tmp_path):
    model = built(target_vocab_size=17)
    model.save(tmp_path)
    again = Seq2Seq.load(tmp_path)
    assert again.config == model.config
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids([[1, 4], [1], [1, 5]])
    assert torch.equal(again(*batch), model(*batch))


def test_it_learns_to_copy():
    from regard.training.objectives import smoothed_cross_entropy

    torch.manual_seed(1)
    model = Seq2Seq(Seq2SeqConfig(vocab_size=8, embedding_size=16, hidden_size=48, num_hidden_layers=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def rows(count: int) -> list[list[int]]:
        return torch.randint(3, 8, (count, 2)).tolist()

    for _ in range(120):
        sources = rows(32)
        source = Sequences.of_ids([[*row, 2] for row in sources])
        target = Sequences.of_ids([[1, *row] for row in sources])
        answers = Sequences.of_ids([[*row, 2] for row in sources]).values
        loss, _ = smoothed_cross_entropy(model(source, target), answers, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = rows(50)
    found = search(model.eval(), Sequences.of_ids([[*row, 2] for row in test]), Search(bos=1, eos=2))
    assert sum(list(one[0].tokens) == row for one, row in zip(found, test, strict=True)) >= 40
