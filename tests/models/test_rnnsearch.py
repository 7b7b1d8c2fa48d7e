"""RNNsearch against the equations of the paper's appendix, and the ways to run it against each other."""

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.generation.search import Generator, Search, search
from regard.models.rnnsearch import PRESETS, AttentiveLayer, Maxout, RNNSearch, RNNSearchConfig
from regard.sequences import Sequences

SIZES = {"vocab_size": 29, "embedding_size": 11, "hidden_size": 13, "attention_size": 7, "maxout_size": 5}
SOURCES = [[5, 6, 7, 8, 2], [9, 2], [11, 12, 13, 2]]
TARGETS = [[1, 4, 5], [1, 10, 11, 12, 13, 14], [1]]


def built(**changes: object) -> RNNSearch:
    model = RNNSearch(RNNSearchConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and the attention too, so that none goes unnoticed
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return model


def equations(model: RNNSearch, source: list[int], target: list[int]) -> dict[str, torch.Tensor]:
    """Appendix A for one sentence, a word at a time, in the paper's letters. Its own code: plain products only."""
    weights = dict(model.named_parameters())
    n, m = model.config.hidden_size, model.config.embedding_size

    def gates(place: str, kind: str) -> list[torch.Tensor]:
        return [weights[f"{place}.{kind}"][part * n : (part + 1) * n] for part in range(3)]

    def read(direction: str, words: list[torch.Tensor]) -> list[torch.Tensor]:  # A.2.1
        place = f"encoder.layers.0.{direction}"
        w_r, w_z, w = gates(place, "input_weight")
        u_r, u_z, u = gates(place, "hidden_weight")
        b_r, b_z, b = gates(place, "input_bias")
        h, states = torch.zeros(n), []
        for x in words:
            z = torch.sigmoid(w_z @ x + u_z @ h + b_z)
            r = torch.sigmoid(w_r @ x + u_r @ h + b_r)
            h = (1 - z) * h + z * torch.tanh(w @ x + u @ (r * h) + b)
            states.append(h)
        return states

    words = [weights["embedding.weight"][token] for token in source]
    ahead, back = read("ahead", words), read("back", words[::-1])[::-1]
    memory = [torch.cat(pair) for pair in zip(ahead, back, strict=True)]

    place = "decoder.layers.0"
    w_a, u_a = weights[f"{place}.attention.query.weight"], weights[f"{place}.attention.key.weight"]
    v_a = weights[f"{place}.attention.vector"]
    (wc_r, wc_z, wc), (u_r, u_z, u) = gates(f"{place}.gru", "input_weight"), gates(f"{place}.gru", "hidden_weight")
    b_r, b_z, b = gates(f"{place}.gru", "input_bias")
    inner, inner_bias = weights[f"{place}.readout.inner.weight"], weights[f"{place}.readout.inner.bias"]
    u_o, c_o, v_o = inner[:, :n], inner[:, n : 3 * n], inner[:, 3 * n :]
    s = torch.tanh(weights[f"{place}.initial.weight"] @ back[0] + weights[f"{place}.initial.bias"])  # s_0, A.2.2
    table = weights["embedding.weight" if model.target_embedding is None else "target_embedding.weight"]
    logits, alphas, states, readouts = [], [], [], []
    for token in target:
        y = table[token]
        e = torch.stack([v_a @ torch.tanh(w_a @ s + u_a @ h) for h in memory])
        alpha = e.exp() / e.exp().sum()
        c = sum(weight * h for weight, h in zip(alpha, memory, strict=True))
        pairs = u_o @ s + v_o @ y + c_o @ c + inner_bias
        t = torch.stack([torch.maximum(pairs[2 * j], pairs[2 * j + 1]) for j in range(len(pairs) // 2)])
        logits.append(weights["output.weight"] @ t + weights["output.bias"])
        z = torch.sigmoid(wc_z[:, :m] @ y + u_z @ s + wc_z[:, m:] @ c + b_z)
        r = torch.sigmoid(wc_r[:, :m] @ y + u_r @ s + wc_r[:, m:] @ c + b_r)
        s = (1 - z) * s + z * torch.tanh(wc[:, :m] @ y + u @ (r * s) + wc[:, m:] @ c + b)
        alphas.append(alpha)
        states.append(s)
        readouts.append(t)
    return {
        "memory": torch.stack(memory),
        "logits": torch.stack(logits),
        "weights": torch.stack(alphas),
        "states": torch.stack(states),
        "readouts": torch.stack(readouts),
    }


@pytest.mark.parametrize("changes", [{}, {"target_vocab_size": 17}], ids=str)
def test_it_is_the_appendix_with_gradients(changes):
    model = built(**changes)
    targets = [[token % 17 for token in row] for row in TARGETS]
    source, target = Sequences.of_ids(SOURCES), Sequences.of_ids(targets)
    found = [equations(model, *pair) for pair in zip(SOURCES, targets, strict=True)]
    memory, logits = model.encode(source), model(source, target)
    assert torch.allclose(memory.values, torch.cat([one["memory"] for one in found]), atol=1e-5)
    expected = torch.cat([one["logits"] for one in found])
    assert (logits - expected).abs().max() < 1e-5
    for row, one in enumerate(found):
        embedded = model.lookup_target(target[row])
        steps = model.decoder.layers[0].steps(embedded, slice(None), memory[row])
        assert torch.allclose(steps["attention.weights"], one["weights"], atol=1e-5)  # target x source
        assert torch.allclose(steps["gru.hidden"], one["states"], atol=1e-5)
        assert torch.allclose(steps["output"], one["readouts"], atol=1e-5)
    answers = torch.randint(0, 17, (len(expected),))
    losses = [nn.functional.cross_entropy(scores, answers) for scores in (logits, expected)]
    assert torch.allclose(*losses, atol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
    for (name, _), one, two in zip(model.named_parameters(), ours, theirs, strict=True):
        assert torch.allclose(one, two, atol=1e-5), name


def test_every_layer_equals_its_steps():
    model = built()
    calls = []
    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.register_forward_hook(lambda layer, inputs, output: calls.append((layer, inputs, output)))
    model(Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS))
    assert len(calls) == 2
    for layer, (x, *memory), output in calls:
        for row in range(3):
            for queries in (slice(None), slice(0, 1), slice(1, None), slice(0, 0)):
                steps = layer.steps(x[row], queries, *(one[row] for one in memory))
                assert list(steps)[-1] == "output"
                assert torch.allclose(steps["output"], output[row][queries], atol=1e-5)


def test_maxout_is_the_larger_one_of_each_pair():
    part = Maxout(3, 2)
    with torch.no_grad():
        part.inner.weight.zero_()
        part.inner.bias.copy_(torch.tensor([1.0, 2.0, -3.0, -4.0]))
    x = torch.randn(1, 3)
    assert part(x).tolist() == [[2.0, -3.0]]
    assert torch.equal(part.steps(x)["output"], part(x))


def test_the_paper_s_model_is_counted():
    with torch.device("meta"):
        found = RNNSearch(PRESETS["rnnsearch-50"]).count_parameters()
    n, m, l, v = 1000, 620, 500, 30_000  # noqa: E741 (the paper's letters)
    encoder = 2 * 3 * n * (m + n + 1)
    attention = n * n + n * 2 * n + n
    decoder = 3 * n * (m + 2 * n + n + 1) + n * (n + 1)
    output = 2 * l * (n + m + 2 * n + 1) + v * (l + 1)
    assert found == 2 * v * m + encoder + attention + decoder + output == 80_442_000


def test_weights_begin_as_in_the_paper():
    model = RNNSearch(RNNSearchConfig(**{**SIZES, "vocab_size": 997}))
    for part in model.encoder.layers[0].back.hidden_weight.chunk(3):
        assert torch.allclose(part @ part.T, torch.eye(13), atol=1e-5)
    attention = model.decoder.layers[0].attention
    assert attention.key.weight.std().item() == pytest.approx(0.001, rel=0.3)
    assert (attention.vector == 0).all()
    assert (model.output.bias == 0).all()
    assert model.output.weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("even", [False, True])
def test_ragged_equals_one_by_one(even):
    model = built()
    sources = [[3, 4, 2]] * 3 if even else SOURCES
    targets = [[1, 4, 5], [1, 6, 7], [1, 8, 9]] if even else TARGETS
    together = model(Sequences.of_ids(sources), Sequences.of_ids(targets))
    alone = [model(Sequences.of_ids([one]), Sequences.of_ids([two])) for one, two in zip(sources, targets, strict=True)]
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
        if position in (1, 3):  # beams of one source change places; then a source leaves
            kept = torch.tensor([1, 0, 2, 2, 5, 4] if position == 1 else [5, 0, 1, 1])
            rows, state = rows[kept], state.select(kept)


def test_beams_that_change_places_share_their_source():
    state = built().start(Sequences.of_ids(SOURCES)).select(torch.tensor([0, 0, 1, 1, 2, 2]))
    assert state.select(torch.tensor([1, 1, 3, 2, 4, 5])).keys is state.keys


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


def test_a_source_without_a_token_is_refused_a_target_without_one_is_not():
    model = built()
    with pytest.raises(RegardError, match="at least one token"):
        model.start(Sequences.of_ids([[3], []]))
    assert model(Sequences.of_ids([[3], [4]]), Sequences.of_ids([[], []])).shape == (0, 29)
    assert isinstance(model.decoder.layers[0], AttentiveLayer)


def test_dropout_is_for_training_only():
    model = built(dropout=0.5)
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS)
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    assert not torch.equal(model(*batch), model(*batch))


def test_half_precision_of_a_training_run():
    model = built().train()
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS)
    exact = model(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(*batch)
        loss = rounded.float().logsumexp(-1).mean()
    loss.backward()
    assert torch.allclose(rounded.float(), exact, atol=0.2)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_saved_and_loaded(tmp_path):
    model = built(target_vocab_size=17)
    model.save(tmp_path)
    again = RNNSearch.load(tmp_path)
    assert again.config == model.config
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids([[1, 4], [1], [1, 5]])
    assert torch.equal(again(*batch), model(*batch))


def test_it_learns_to_reverse():
    from regard.training.objectives import smoothed_cross_entropy

    torch.manual_seed(1)
    sizes = {"vocab_size": 8, "embedding_size": 16, "hidden_size": 48, "attention_size": 24, "maxout_size": 16}
    model = RNNSearch(RNNSearchConfig(**sizes))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def rows(count: int) -> list[list[int]]:
        return torch.randint(3, 8, (count, 2)).tolist()

    for _ in range(120):
        sources = rows(32)
        source = Sequences.of_ids([[*row, 2] for row in sources])
        target = Sequences.of_ids([[1, *row[::-1]] for row in sources])
        answers = Sequences.of_ids([[*row[::-1], 2] for row in sources]).values
        loss, _ = smoothed_cross_entropy(model(source, target), answers, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = rows(50)
    found = search(model.eval(), Sequences.of_ids([[*row, 2] for row in test]), Search(bos=1, eos=2))
    assert sum(list(one[0].tokens) == row[::-1] for one, row in zip(found, test, strict=True)) >= 40
