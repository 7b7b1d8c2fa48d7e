"""The Transformer against implementations that nobody here wrote, on the same weights, ragged against padded."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import MarianConfig, MarianMTModel

from regard import RegardError, Sequences, Transformer, TransformerConfig
from regard.attention import MultiHeadAttention
from regard.models.transformer import PRESETS

SIZES = {"vocab_size": 29, "d_model": 12, "encoder_layers": 2, "decoder_layers": 3, "attention_heads": 3, "ffn_dim": 20}
SOURCES = [[5, 6, 7, 8, 2], [9, 2], [11, 12, 13, 2]]
TARGETS = [[1, 4, 5], [1, 10, 11, 12, 13, 14], [1]]


def built(**changes: object) -> Transformer:
    model = Transformer(TransformerConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that none of them goes unnoticed
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def padded(rows: list[list[int]]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def valid(logits: torch.Tensor) -> torch.Tensor:
    """The rows of a padded answer that belong to target tokens, laid end to end."""
    return torch.cat([row[: len(target)] for row, target in zip(logits, TARGETS, strict=True)])


def both_ways(model: Transformer, other: torch.Tensor, twin: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Same logits to 1e-5, and same gradients of a loss over them."""
    logits = model(Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS))
    assert (logits - other).abs().max() < 1e-5
    (logits**2).mean().backward()
    (other**2).mean().backward()
    ours, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    for name, twin_name in pairs:
        assert torch.allclose(ours[name].grad, theirs[twin_name].grad, atol=1e-5), name


# --- torch.nn.Transformer ------------------------------------------------------------------------------------------


def torch_twin(model: Transformer) -> nn.Transformer:
    config = model.config
    twin = nn.Transformer(
        config.d_model, config.attention_heads, config.encoder_layers, config.decoder_layers, config.ffn_dim,
        dropout=0.0, batch_first=True, norm_first=config.normalize_before,
    ).eval()  # fmt: skip
    if not config.normalize_before:  # the paper has no norm after the last layer
        twin.encoder.norm = twin.decoder.norm = None
    renamed = {}
    for name, value in model.state_dict().items():
        if name.startswith("embedding"):
            continue
        decoding = name.startswith("decoder")
        for ours, theirs in (
            ("self_attention_residual.norm", "norm1"),
            ("cross_attention_residual.norm", "norm2"),
            ("feed_forward_residual.norm", "norm3" if decoding else "norm2"),
            ("self_attention.projection.", "self_attn.in_proj_"),
            ("cross_attention.projection.", "multihead_attn.in_proj_"),
            ("self_attention.output", "self_attn.out_proj"),
            ("cross_attention.output", "multihead_attn.out_proj"),
            ("feed_forward.inner", "linear1"),
            ("feed_forward.output", "linear2"),
        ):
            name = name.replace(ours, theirs)
        renamed[name] = value
    twin.load_state_dict(renamed)
    return twin


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("normalize_before", [False, True], ids=["post-norm", "pre-norm"])
def test_the_same_logits_and_gradients_as_pytorch(normalize_before):
    model = built(normalize_before=normalize_before)
    twin = torch_twin(model)
    source, target = padded(SOURCES), padded(TARGETS)
    lengths = torch.tensor([len(row) for row in SOURCES])
    hidden_keys = torch.arange(source.shape[1])[None] >= lengths[:, None]
    future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)

    def embed(tokens: torch.Tensor) -> torch.Tensor:
        return model.positions.encoding(torch.arange(tokens.shape[1])) + model.lookup(tokens.flatten()).view(
            *tokens.shape, -1
        )

    hidden = twin(
        embed(source).detach(), embed(target).detach(), tgt_mask=future,
        src_key_padding_mask=hidden_keys, memory_key_padding_mask=hidden_keys,
    )  # fmt: skip
    other = valid(hidden @ model.embedding.weight.detach().T)
    both_ways(
        model,
        other,
        twin,
        [
            ("encoder.layers.0.self_attention.projection.weight", "encoder.layers.0.self_attn.in_proj_weight"),
            ("decoder.layers.2.cross_attention.output.bias", "decoder.layers.2.multihead_attn.out_proj.bias"),
            ("decoder.layers.1.feed_forward.inner.weight", "decoder.layers.1.linear1.weight"),
            ("encoder.layers.1.self_attention_residual.norm.weight", "encoder.layers.1.norm1.weight"),
        ],
    )


# --- Marian --------------------------------------------------------------------------------------------------------


def marian_twin() -> MarianMTModel:
    config = MarianConfig(
        vocab_size=29, d_model=12, encoder_layers=2, decoder_layers=3, encoder_attention_heads=3,
        decoder_attention_heads=3, encoder_ffn_dim=20, decoder_ffn_dim=20, dropout=0.0, activation_function="relu",
        scale_embedding=True, max_position_embeddings=32, pad_token_id=0, eos_token_id=2, bos_token_id=1,
        decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    twin = MarianMTModel(config).eval()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return twin


def of_marian(twin: MarianMTModel) -> Transformer:
    """Marian keeps sines in the first half of the channels and cosines in the second; the paper has them in turn.

    The residual stream's channels are put in the paper's order, in every weight that reads or writes them.
    """
    width = twin.config.d_model
    turn = torch.arange(width).view(2, -1).T.flatten()  # paper's channel c is Marian's turn[c]
    theirs = twin.state_dict()
    model = Transformer(TransformerConfig(**SIZES)).eval()
    weights = {"embedding.weight": theirs["model.shared.weight"][:, turn]}
    for side, depth in (("encoder", 2), ("decoder", 3)):
        for number in range(depth):
            ours, other = f"{side}.layers.{number}.", f"model.{side}.layers.{number}."
            attentions = [("self_attention", "self_attn")]
            attentions += [("cross_attention", "encoder_attn")] if side == "decoder" else []
            for name, source in attentions:
                parts = [theirs[f"{other}{source}.{letter}_proj.weight"][:, turn] for letter in "qkv"]
                weights[f"{ours}{name}.projection.weight"] = torch.cat(parts)
                parts = [theirs[f"{other}{source}.{letter}_proj.bias"] for letter in "qkv"]
                weights[f"{ours}{name}.projection.bias"] = torch.cat(parts)
                for kind in ("weight", "bias"):
                    weights[f"{ours}{name}.output.{kind}"] = theirs[f"{other}{source}.out_proj.{kind}"][turn]
                    norm = theirs[f"{other}{source}_layer_norm.{kind}"][turn]
                    weights[f"{ours}{name}_residual.norm.{kind}"] = norm
            weights[f"{ours}feed_forward.inner.weight"] = theirs[f"{other}fc1.weight"][:, turn]
            weights[f"{ours}feed_forward.inner.bias"] = theirs[f"{other}fc1.bias"]
            for kind in ("weight", "bias"):
                weights[f"{ours}feed_forward.output.{kind}"] = theirs[f"{other}fc2.{kind}"][turn]
                weights[f"{ours}feed_forward_residual.norm.{kind}"] = theirs[f"{other}final_layer_norm.{kind}"][turn]
    model.load_state_dict(weights)
    return model


def test_the_same_logits_and_gradients_as_marian():
    twin = marian_twin()
    model = of_marian(twin)
    source = padded(SOURCES)
    mask = (torch.arange(source.shape[1])[None] < torch.tensor([len(row) for row in SOURCES])[:, None]).long()
    found = twin(input_ids=source, attention_mask=mask, decoder_input_ids=padded(TARGETS))
    both_ways(
        model,
        valid(found.logits),
        twin,
        [
            ("encoder.layers.1.feed_forward.inner.bias", "model.encoder.layers.1.fc1.bias"),
            ("decoder.layers.0.feed_forward.inner.bias", "model.decoder.layers.0.fc1.bias"),
        ],
    )


@pytest.mark.parametrize("beams", [1, 4])
def test_the_same_answers_as_marian(beams):
    from regard.generation.search import Search, search

    twin = marian_twin()
    model = of_marian(twin)
    source = padded(SOURCES)
    mask = (torch.arange(source.shape[1])[None] < torch.tensor([len(row) for row in SOURCES])[:, None]).long()
    theirs = twin.generate(
        input_ids=source, attention_mask=mask, num_beams=beams, max_new_tokens=7, length_penalty=0.0,
        early_stopping=False, do_sample=False, bad_words_ids=[[0], [1]],
    )  # fmt: skip
    how = Search(bos=1, eos=2, beams=beams, length_penalty=0.0, limit=7, forbidden=(0, 1))
    for row, answers in enumerate(search(model, Sequences.of_ids(SOURCES), how)):
        expected = [token for token in theirs[row, 1:].tolist() if token not in (0, 2)]
        assert list(answers[0].tokens) == expected


# --- shapes, sizes, and the two ways of decoding -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "counted", "paper"), [("base", 63_082_496, 65e6), ("big", 214_245_376, 213e6)])
def test_presets_have_the_sizes_of_the_paper(name, counted, paper):
    with torch.device("meta"):
        found = Transformer(PRESETS[name]).count_parameters()
    assert found == counted
    assert abs(found / paper - 1) < 0.035  # the paper rounds, and its vocabulary is "about 37000"


@pytest.mark.parametrize("normalize_before", [False, True])
def test_ragged_equals_one_by_one(normalize_before):
    model = built(normalize_before=normalize_before)
    together = model(Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS))
    alone = [
        model(Sequences.of_ids([source]), Sequences.of_ids([target]))
        for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("normalize_before", [False, True])
def test_token_by_token_equals_all_at_once(normalize_before):
    model = built(normalize_before=normalize_before)
    target = torch.randint(3, 29, (3, 40))
    target[:, 0] = 1
    together = model(Sequences.of_ids(SOURCES), Sequences.of(list(target))).view(3, 40, -1)
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    state = model.start(Sequences.of_ids(SOURCES)).select(rows)
    assert state.beams == 2
    for position in range(40):
        logits, state = model.step(target[rows, position], state)
        assert torch.allclose(logits, together[rows, position], atol=1e-4)
        if position == 5:  # the second source leaves, the beams of the others change places
            kept = torch.tensor([1, 0, 4, 5])
            rows, state = rows[kept], state.select(kept)
        if position == 9:  # rows that no longer come in even groups
            kept = torch.tensor([0, 1, 2])
            rows, state = rows[kept], state.select(kept)
            assert state.beams == 1


@given(st.data())
def test_any_rows_may_be_selected_at_any_step(data):
    model = built()
    source = Sequences.of_ids(SOURCES)
    state, prefixes, origins = model.start(source), [[], [], []], [0, 1, 2]
    with torch.no_grad():
        for _ in range(3):
            tokens = data.draw(st.lists(st.integers(3, 28), min_size=len(prefixes), max_size=len(prefixes)))
            prefixes = [[*prefix, token] for prefix, token in zip(prefixes, tokens, strict=True)]
            logits, state = model.step(torch.tensor(tokens), state)
            whole = model(Sequences.of_ids([SOURCES[origin] for origin in origins]), Sequences.of_ids(prefixes))
            assert torch.allclose(logits, whole.view(len(prefixes), len(prefixes[0]), -1)[:, -1], atol=1e-4)
            rows = data.draw(st.lists(st.integers(0, len(prefixes) - 1), min_size=1, max_size=7))
            prefixes, origins = [prefixes[row] for row in rows], [origins[row] for row in rows]
            state = state.select(torch.tensor(rows))


def test_beams_of_one_source_share_its_memory():
    state = built().start(Sequences.of_ids(SOURCES)).select(torch.arange(3).repeat_interleave(4))
    assert state.beams == 4
    assert [cache.keys.shape[0] for cache in state.memory_caches] == [3, 3, 3]
    assert state.select(torch.tensor([5, 4, 6, 7])).memory_caches[0].keys.shape[0] == 1


def test_training_mode_drops_and_learns():
    model = built(dropout=0.3).train()
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS)
    assert not torch.allclose(model(*batch), model(*batch))
    model(*batch).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_gives_the_same_model_back(tmp_path):
    model = built(normalize_before=True)
    model.save(tmp_path)
    back = Transformer.load(tmp_path)
    assert back.config == model.config
    batch = Sequences.of_ids(SOURCES), Sequences.of_ids(TARGETS)
    assert torch.equal(back(*batch), model(*batch))


@pytest.mark.parametrize(("storage", "steps"), [("float16", 2048), ("int8", 254)])
def test_weights_may_be_rounded_on_disk(tmp_path, storage, steps):
    model = built()
    model.save(tmp_path, storage)
    back = Transformer.load(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        assert back[name].dtype == torch.float32
        largest = value.abs().amax(dim=-1, keepdim=True)
        assert ((back[name] - value).abs() <= 1.01 * largest / steps + 1e-7).all()


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", None, "is not a model folder: it has no config.json"),
        ("config.json", lambda whole: whole[:-9], "cannot be read as JSON"),
        ("config.json", lambda whole: b"[]", "holds no JSON object"),
        ("config.json", lambda whole: whole.replace(b"d_model", b"d_modle"), "unknown field 'd_modle'"),
        ("config.json", lambda whole: whole.replace(b'"ffn_dim": 20', b'"ffn_dim": -1'), "ffn_dim: .*, got -1"),
        ("model.safetensors", None, "is not a model folder: it has no model.safetensors"),
        ("model.safetensors", lambda whole: whole[:-9], "is damaged or not a safetensors file"),
        ("model.safetensors", lambda whole: b"", "is damaged or not a safetensors file"),
        ("model.safetensors", lambda whole: b"\xff" * 64, "is damaged or not a safetensors file"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(tmp_path, file, change, told):
    built().save(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    if change:
        (tmp_path / file).write_bytes(change(whole))
    with pytest.raises(RegardError, match=told) as error:
        Transformer.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    built().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "ffn_dim": 23, "decoder_layers": 4}))
    with pytest.raises(RegardError) as error:
        Transformer.load(tmp_path)
    told = str(error.value)
    for layer in range(2):
        assert f"encoder.layers.{layer}.feed_forward.inner.weight is 20x12, the configuration asks for 23x12" in told
    assert "missing decoder.layers.3.self_attention.output.bias" in told
    assert "\n" not in told


def test_what_does_not_fit_is_named(tmp_path):
    model = built()
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_layers": 2}))
    with pytest.raises(RegardError, match=r"unexpected decoder\.layers\.2\.cross_attention\.output\.bias"):
        Transformer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bart"}))
    with pytest.raises(RegardError, match="model_type"):
        Transformer.load(tmp_path)
    with torch.no_grad():
        model.encoder.layers[0].feed_forward.inner.bias[0] = float("nan")
    model.save(tmp_path)
    with pytest.raises(RegardError, match=r"feed_forward\.inner\.bias holds values that are not numbers"):
        Transformer.load(tmp_path)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 5 heads"):
        TransformerConfig(d_model=12, attention_heads=5)
    assert isinstance(built().encoder.layers[0].self_attention, MultiHeadAttention)


# --- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", ["copy", "reverse", "sort"])
def test_it_learns(task):
    from regard.generation.search import Search, search
    from regard.training.objectives import smoothed_cross_entropy

    answer = {"copy": list, "reverse": lambda row: row[::-1], "sort": sorted}[task]
    torch.manual_seed(1)
    config = TransformerConfig(
        vocab_size=13, d_model=32, encoder_layers=2, decoder_layers=2, attention_heads=4, ffn_dim=64, dropout=0.0
    )
    model = Transformer(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def rows(count: int) -> list[list[int]]:
        return [torch.randint(3, 13, (int(torch.randint(2, 7, ())),)).tolist() for _ in range(count)]

    for step in range(1500):  # how soon depends on the processor's rounding
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, step / 50)
        sources = rows(48)
        targets = [answer(row) for row in sources]
        source = Sequences.of_ids([[*row, 2] for row in sources])
        target = Sequences.of_ids([[1, *row] for row in targets])
        answers = Sequences.of_ids([[*row, 2] for row in targets]).values
        loss, _ = smoothed_cross_entropy(model(source, target), answers, 0.0)
        if loss < 0.03:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    test = rows(100)
    found = search(model, Sequences.of_ids([[*row, 2] for row in test]), Search(bos=1, eos=2))
    right = sum(list(one[0].tokens) == answer(row) for one, row in zip(found, test, strict=True))
    assert right >= 80
