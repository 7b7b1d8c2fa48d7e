"""The systems there are, by the `model_type` in their configuration."""

from __future__ import annotations

from pathlib import Path

from regard.errors import unknown
from regard.models.albert import Albert
from regard.models.base import CONFIG, Model, read_json
from regard.models.bert import Bert
from regard.models.gpt import GPT
from regard.models.llama import Llama
from regard.models.rnnsearch import RNNSearch
from regard.models.seq2seq import Seq2Seq
from regard.models.t5 import T5
from regard.models.transformer import Transformer
from regard.models.ulmfit import AwdLstm, Ulmfit
from regard.models.whisper import Whisper

MODELS: dict[str, type[Model]] = {
    "seq2seq": Seq2Seq,
    "rnnsearch": RNNSearch,
    "transformer": Transformer,
    "t5": T5,
    "whisper": Whisper,
    "awd_lstm": AwdLstm,
    "ulmfit": Ulmfit,
    "gpt": GPT,
    "llama": Llama,
    "bert": Bert,
    "albert": Albert,
}


def model_class(model_type: str) -> type[Model]:
    """RegardError for a name that is none of ours."""
    if model_type not in MODELS:
        raise unknown("system", model_type, MODELS)
    return MODELS[model_type]


def load_model(folder: Path) -> Model:
    """A model from its folder, whichever system it is."""
    return model_class(str(read_json(folder / CONFIG).get("model_type"))).load(folder)
