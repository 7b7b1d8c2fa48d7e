"""A table as a model, and small random models of every family that reads several tokens at once."""

import itertools
from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from regard.models.gpt import GPT, GPTConfig
from regard.models.llama import Llama, LlamaConfig
from regard.models.t5 import T5, T5Config
from regard.models.transformer import Transformer, TransformerConfig
from regard.sequences import Sequences

WORDS = 11
FAMILIES = {
    "transformer": lambda seed: Transformer(
        TransformerConfig(
            vocab_size=WORDS, d_model=12, encoder_layers=1, decoder_layers=2, attention_heads=3, ffn_dim=16
        )
    ),
    "t5": lambda seed: T5(
        T5Config(
            vocab_size=WORDS, d_model=12, d_kv=4, d_ff=16, encoder_layers=1, decoder_layers=2, num_heads=3,
            eos_token_id=2, bos_token_id=1,
        )
    ),
    "gpt": lambda seed: GPT(GPTConfig(vocab_size=WORDS, n_embd=12, n_layer=2, n_head=3, n_positions=64)),
    "llama": lambda seed: Llama(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=24, intermediate_size=16, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=64,
        )
    ),
}  # fmt: skip


def built(family: str, seed: int = 3) -> torch.nn.Module:
    """Random weights, large enough that answers differ and end."""
    torch.manual_seed(seed)
    model = FAMILIES[family](seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


class Table:
    """A model that is a table: the chance of every token after the tokens so far, whatever the source."""

    def __init__(self, chances) -> None:
        self.chances = chances
        self.config = SimpleNamespace(vocab_size=6, max_position_embeddings=64)

    def start(self, source: Sequences) -> "Read":
        return Read([()] * len(source))

    def step(self, tokens: torch.Tensor, state: "Read") -> tuple[torch.Tensor, "Read"]:
        begun = [(*text, token) for text, token in zip(state.texts, tokens.tolist(), strict=True)]
        return torch.stack([self.chances(text[1:]) for text in begun]).log(), Read(begun)

    def extend(self, tokens: torch.Tensor, state: "Read") -> tuple[torch.Tensor, "Read"]:
        found = []
        for token in tokens.unbind(dim=1):
            logits, state = self.step(token, state)
            found.append(logits)
        return torch.stack(found, dim=1), state


class Read:
    def __init__(self, texts: list[tuple[int, ...]]) -> None:
        self.texts = texts

    @property
    def length(self) -> int:
        return len(self.texts[0])

    def cut(self, length: int) -> None:
        self.texts = [text[:length] for text in self.texts]

    def select(self, rows: torch.Tensor) -> "Read":
        return Read([self.texts[row] for row in rows.tolist()])


def check_steps(data, prepared, model, lengths: list[int], words: int) -> None:
    """Steps of a prepared model are those of the model itself, whichever beams go on and whichever sources leave."""
    source = Sequences.of_ids([[data.draw(st.integers(3, words - 1)) for _ in range(length)] for length in lengths])
    with torch.inference_mode():
        ours, theirs = prepared.start(source), model.start(source)
        tokens = torch.ones(len(lengths), dtype=torch.long)
        rows = list(range(len(lengths)))  # the source of each row; its beams stand together
        for step in range(data.draw(st.integers(1, 6))):
            found, ours = prepared.step(tokens, ours)
            expected, theirs = model.step(tokens, theirs)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
            if data.draw(st.booleans()):
                copies = data.draw(st.integers(1, 3))
                families = [list(group) for _, group in itertools.groupby(range(len(rows)), key=lambda row: rows[row])]
                kept = families if step == 0 else families[data.draw(st.integers(0, len(families) - 1)) :]
                chosen = [data.draw(st.sampled_from(family)) for family in kept for _ in range(copies)]
                rows = [rows[row] for row in chosen]
                ours, theirs = ours.select(torch.tensor(chosen)), theirs.select(torch.tensor(chosen))
            tokens = torch.tensor([data.draw(st.integers(1, words - 1)) for _ in rows])
