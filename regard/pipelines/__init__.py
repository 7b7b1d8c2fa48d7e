"""Loaded models with their tokenizers: what `regard.load` gives, and what every command works with.

>>> regard.load("en-fr").translate(["Open the file."])
['Ouvrez le fichier.']

Translators are `TextToText`, language models `LanguageModel`, encoders and classifiers `TextReader`, models that hear
`SpeechToText`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.hub import ctranslate2, gguf
from regard.hub.huggingface import find_on_hub, is_huggingface, read_folder
from regard.modalities.subwords import SubwordCodec, Subwords
from regard.modalities.text import Codec
from regard.models.albert import Albert
from regard.models.base import CONFIG, Model, read_json
from regard.models.bert import Bert
from regard.models.catalog import load_model, model_class
from regard.models.gpt import GPT
from regard.models.llama import Llama
from regard.models.rnnsearch import RNNSearch
from regard.models.seq2seq import Seq2Seq
from regard.models.t5 import T5
from regard.models.transformer import Transformer
from regard.models.ulmfit import AwdLstm, Ulmfit
from regard.models.whisper import Whisper
from regard.pipelines.language_model import LanguageModel
from regard.pipelines.prepared import place
from regard.pipelines.speech_to_text import SpeechToText
from regard.pipelines.text_reader import TextReader
from regard.pipelines.text_to_text import TextToText
from regard.pretrained import DEFAULT, find, names

Pipeline = TextToText | LanguageModel | TextReader | SpeechToText

_TRANSLATORS = (Transformer, T5, Seq2Seq, RNNSearch)
_LANGUAGE_MODELS = (GPT, Llama, AwdLstm)
_READERS = (Bert, Albert, Ulmfit, GPT)


def load(
    name_or_folder: str = DEFAULT, precision: str = "fp32", device: str = "cpu", capture: str | None = None
) -> Pipeline:
    """A model by its name in the package or on the Hugging Face hub, or from its folder or a training run's folder.

    `precision`: of the weights while it answers (fp32, bf16, int8; on a GPU fp32, bf16, fp8); explanations are always
    float32. `device`: cpu, cuda, ..., or auto. `capture`: steps of fixed shapes, recorded as a graph (`graph`, the
    default on a GPU), compiled (`compile`), or as they are (`none`).
    Raises RegardError for an unknown name (with the nearest) and for a missing or damaged folder.
    """
    loaded = _load(name_or_folder)
    place(loaded, precision, device, capture)
    return loaded


def _load(name_or_folder: str) -> Pipeline:
    if name_or_folder.endswith(gguf.SUFFIX):
        return _pipeline(name_or_folder, *gguf.read_file(Path(name_or_folder)))
    folder = _folder_of(name_or_folder)
    fields = read_json(folder / CONFIG)
    if ctranslate2.is_folder(folder, fields):
        return _pipeline(name_or_folder, *ctranslate2.read_folder(folder))
    if is_huggingface(fields):
        model, tokenizer = read_folder(folder)
        return _pipeline(name_or_folder, model, tokenizer)
    kind = model_class(str(fields.get("model_type")))
    if issubclass(kind, _TRANSLATORS) and not issubclass(kind, Whisper):
        codec = Codec.load(folder)
        model = load_model(folder)
        _check_vocabulary(folder, max(codec.source.vocab_size, codec.target.vocab_size), model)
        return TextToText(name_or_folder, model, codec, folder)
    tokenizer = Subwords.load(folder)
    model = load_model(folder)
    _check_vocabulary(folder, tokenizer.vocab_size, model)
    return _pipeline(name_or_folder, model, tokenizer)


def load_text_to_text(name_or_folder: str = DEFAULT, precision: str = "fp32") -> TextToText:
    """The same where only a translator will do."""
    loaded = load(name_or_folder, precision)
    if not isinstance(loaded, TextToText):
        kind = loaded.model.config.model_type
        raise RegardError(f"{name_or_folder} ({kind}) does not turn text into text: give a translator")
    return loaded


def _folder_of(name: str) -> Path:
    """Package and folders first; a name with one slash that is no folder may be one of the hub's."""
    of_the_hub = name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()
    return find_on_hub(name) if of_the_hub and name not in names() else find(name)


def _pipeline(name: str, model: Model, tokenizer: Subwords | SubwordCodec) -> Pipeline:
    if isinstance(tokenizer, SubwordCodec):
        return TextToText(name, model, tokenizer)
    if isinstance(model, Whisper):
        return SpeechToText(name, model, tokenizer)
    if isinstance(model, _LANGUAGE_MODELS) and not getattr(model.config, "labels", ()):
        return LanguageModel(name, model, tokenizer)
    if isinstance(model, _READERS):
        return TextReader(name, model, tokenizer)
    raise RegardError(f"{name}: a {model.config.model_type} from elsewhere can be opened with regard.hub, not yet run")


def _check_vocabulary(folder: Path, tokens: int, model: Any) -> None:
    if tokens > model.config.vocab_size:
        raise RegardError(f"{folder}: the tokenizer has {tokens} tokens, the model {model.config.vocab_size}")
