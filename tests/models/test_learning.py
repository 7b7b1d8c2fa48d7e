"""The translators learn what has one right answer: to copy, to reverse and to sort."""

import pytest
import torch

from regard.generation.search import Search, search
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.models.t5 import T5, T5Config
from regard.models.transformer import Transformer, TransformerConfig
from regard.sequences import Sequences
from regard.training.objectives import smoothed_cross_entropy

BOS, EOS, WORDS = 1, 2, 6  # words are 3 ... 8
MODELS = {
    "seq2seq": lambda: Seq2Seq(
        Seq2SeqConfig(vocab_size=9, embedding_size=16, hidden_size=64, num_hidden_layers=1, reverse_source=True)
    ),
    "rnnsearch": lambda: RNNSearch(
        RNNSearchConfig(vocab_size=9, embedding_size=16, hidden_size=32, attention_size=32, maxout_size=32)
    ),
    "transformer": lambda: Transformer(
        TransformerConfig(
            vocab_size=9, d_model=32, encoder_layers=1, decoder_layers=1, attention_heads=4, ffn_dim=64, dropout=0.0,
            normalize_before=True,
        )
    ),
}  # fmt: skip
MODELS["t5"] = lambda: T5(
    T5Config(
        vocab_size=9, d_model=32, d_kv=8, d_ff=64, encoder_layers=1, decoder_layers=1, num_heads=4, dropout_rate=0.0,
        pad_token_id=0, bos_token_id=BOS, eos_token_id=EOS, gated=True,
    )
)  # fmt: skip
TASKS = {"copy": list, "reverse": lambda words: words[::-1], "sort": sorted}


def examples(count, task):
    rows = [torch.randint(3, 3 + WORDS, (int(torch.randint(1, 5, ())),)).tolist() for _ in range(count)]
    answers = [[*TASKS[task](row), EOS] for row in rows]
    return (
        Sequences.of_ids([[*row, EOS] for row in rows]),
        Sequences.of_ids([[BOS, *answer[:-1]] for answer in answers]),
        Sequences.of_ids(answers),
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_it_learns_and_answers_rightly(name, task):
    torch.manual_seed(5)
    model = MODELS[name]().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps = 350
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1.0, 2 * (1 - step / steps))
        source, target, answers = examples(48, task)
        loss, _ = smoothed_cross_entropy(model(source, target), answers.values, 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    source, _, answers = examples(64, task)
    found = search(model.eval(), source, Search(BOS, EOS, limit=8))
    right = sum([*one[0].tokens, EOS] == wanted.tolist() for one, wanted in zip(found, answers, strict=True))
    assert right >= 58
