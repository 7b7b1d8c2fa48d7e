"""Small random models of every family, with the texts they read."""

import torch

from regard import Sequences, Trace, Transformer, TransformerConfig
from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.llama import Llama, LlamaConfig
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.models.t5 import T5, T5Config
from regard.models.ulmfit import AwdLstm, AwdLstmConfig
from regard.models.whisper import Whisper, WhisperConfig

BERT = {
    "vocab_size": 29, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 60, "pooler": "tanh",
}  # fmt: skip
PAPER = {"vocab_size": 29, "d_model": 12, "encoder_layers": 2, "decoder_layers": 2, "attention_heads": 3, "ffn_dim": 20}
WITH_HEADS = {
    "transformer": lambda: Transformer(TransformerConfig(**PAPER)),
    "pre-norm": lambda: Transformer(TransformerConfig(**PAPER, normalize_before=True)),
    "t5": lambda: T5(
        T5Config(vocab_size=29, d_model=12, d_kv=5, d_ff=20, encoder_layers=2, decoder_layers=2, num_heads=3)
    ),
    "whisper": lambda: Whisper(WhisperConfig(**PAPER, num_mel_bins=5, prompt=(3, 4), pad_token_id=0, eos_token_id=2)),
    "gpt": lambda: GPT(GPTConfig(vocab_size=29, n_positions=60, n_embd=12, n_layer=2, n_head=3)),
    "gpt2": lambda: GPT(
        GPTConfig(vocab_size=29, n_positions=60, n_embd=12, n_layer=2, n_head=3, normalize_before=True)
    ),
    "llama": lambda: Llama(
        LlamaConfig(
            vocab_size=29, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, attention_bias=True,
        )
    ),
    "bert": lambda: Bert(BertConfig(**BERT, heads=("masked_words",))),
    "classifier": lambda: Bert(BertConfig(**BERT, heads=("classification",), labels=("a", "b", "c"))),
    "albert": lambda: Albert(AlbertConfig(**BERT, embedding_size=8, heads=("masked_words",))),
}  # fmt: skip
RECURRENT = {
    "seq2seq": lambda: Seq2Seq(Seq2SeqConfig(vocab_size=29, embedding_size=6, hidden_size=10, num_hidden_layers=2)),
    "rnnsearch": lambda: RNNSearch(
        RNNSearchConfig(vocab_size=29, embedding_size=6, hidden_size=10, attention_size=7, maxout_size=5)
    ),
    "awd_lstm": lambda: AwdLstm(AwdLstmConfig(vocab_size=29, embedding_size=10, hidden_size=14, num_hidden_layers=3)),
}
EVERY = {**WITH_HEADS, **RECURRENT}
TRANSLATORS = ("transformer", "pre-norm", "t5", "whisper", "seq2seq", "rnnsearch")


def built(name, dtype=torch.float32):
    """The model with biases and norms of its own, so that none of them can be forgotten unnoticed."""
    torch.manual_seed(3)
    model = EVERY[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def traced(name, lengths=(7, 2, 4), dtype=torch.float32, **options):
    torch.manual_seed(5)
    source = Sequences.of([torch.randint(3, 29, (length,)) for length in lengths])
    if name == "whisper":  # two spectra a position
        source = source.with_values(torch.randn(len(source.values), 2, 5, dtype=dtype))
    target = Sequences.of([torch.randint(3, 29, (length + 1,)) for length in lengths]) if name in TRANSLATORS else None
    return Trace(built(name, dtype), source, target, **options)
