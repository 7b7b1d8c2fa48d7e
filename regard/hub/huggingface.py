"""Hugging Face's model folders, read and written: `config.json`, safetensors, tokenizer.

    model, tokenizer = read_folder(find_on_hub("google-bert/bert-base-uncased"))
    write_folder(model, tokenizer, Path("for-transformers"))

Weights come from safetensors only. A pickle (`pytorch_model.bin`) can run any code when it is opened, so it is refused.
What a family's configuration and tensors are called here stands in one module a family, listed in `FAMILIES`.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from regard.errors import RegardError, unknown
from regard.files import written_aside
from regard.hub.tokenizers import read_codec, read_tokenizer, subword_codec
from regard.modalities.subwords import SubwordCodec, Subwords
from regard.modalities.text import Codec
from regard.models.base import CONFIG, WEIGHTS, Config, Model, check_weights, read_json
from regard.models.catalog import MODELS
from regard.models.transformer import Transformer
from regard.models.whisper import Whisper

FAMILIES = {
    "albert": "bert",
    "bart": "bart",
    "bert": "bert",
    "distilbert": "bert",
    "gpt2": "gpt",
    "llama": "llama",
    "marian": "bart",
    "mistral": "llama",
    "openai-gpt": "gpt",
    "pegasus": "bart",
    "qwen2": "llama",
    "roberta": "bert",
    "t5": "t5",
    "whisper": "whisper",
}
"""Hugging Face's model_type, and the module of `regard.hub` that reads and writes it."""

_WRITERS = {"albert": "bert", "bert": "bert", "gpt": "gpt", "llama": "llama", "t5": "t5", "transformer": "bart",
            "whisper": "whisper"}  # fmt: skip
"""Our model_type, and the module that writes it."""

_GENERATION = "generation_config.json"
_OF_GENERATION = ("decoder_start_token_id", "eos_token_id", "forced_bos_token_id", "pad_token_id")
_OF_SPEECH = (
    "begin_suppress_tokens", "forced_decoder_ids", "lang_to_id", "no_timestamps_token_id", "suppress_tokens",
    "task_to_id",
)  # fmt: skip
_TOLD = _OF_GENERATION + _OF_SPEECH
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_OTHERS = ("*.h5", "*.msgpack", "*.onnx")
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm"]


@runtime_checkable
class Family(Protocol):
    """What a module such as `regard.hub.bert` offers."""

    MODEL_TYPES: dict[str, type[Model]]

    def read_config(self, fields: dict[str, Any]) -> Config: ...

    def read_weights(self, config: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]: ...

    def write_config(self, config: Any) -> dict[str, Any]: ...

    def write_weights(self, config: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]: ...


def is_huggingface(fields: dict[str, Any]) -> bool:
    """Whether a `config.json` was written by transformers: of the names we share, ours always say which heads."""
    return "architectures" in fields or "transformers_version" in fields or fields.get("model_type") not in MODELS


def find_on_hub(name: str) -> Path:
    """The local folder of a model of the hub, `owner/name`: from its cache, or fetched. Raises RegardError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RegardError(
            f"there is no folder {name}, and the hub does not give a model of that name: {reason}"
        ) from error


def read_folder(folder: Path) -> tuple[Model, Subwords | SubwordCodec]:
    """Model, in float32 and ready to answer, and tokenizer; of a translator two tokenizers, source and target.

    Raises RegardError; nothing is left half loaded.
    """
    fields = _read_fields(folder)
    family, kind = family_of(fields)
    config = family.read_config(fields)
    model = kind(config)
    weights = family.read_weights(config, read_tensors(folder))
    check_weights(model, weights, folder)
    model.load_state_dict(weights)
    translator = isinstance(model, Transformer) and not isinstance(model, Whisper)
    tokenizer = read_codec(folder, fields) if translator else read_tokenizer(folder, fields)
    sides = (tokenizer.source, tokenizer.target) if isinstance(tokenizer, SubwordCodec) else (tokenizer,)
    tokens, room = max(side.vocab_size for side in sides), int(model.config.vocab_size)
    if tokens > room:
        raise RegardError(f"{folder}: the tokenizer has {tokens} tokens, the model's vocabulary {room}")
    return model.eval(), tokenizer


def write_folder(model: Model, tokenizer: Subwords | SubwordCodec | Codec, folder: Path) -> None:
    """A folder that transformers loads with the same logits; whole, or not at all.

    Of a translator's two tokenizers transformers finds that of the source; the other is `target_tokenizer.json`.
    """
    family = _family_that_writes(model)
    weights = family.write_weights(model.config, {name: value.cpu() for name, value in model.state_dict().items()})
    with written_aside(folder) as aside:
        aside.mkdir()
        fields = family.write_config(model.config)
        _write_json(aside / CONFIG, fields)
        if isinstance(model, Transformer):
            _write_json(aside / _GENERATION, {name: fields[name] for name in _TOLD if name in fields})
            _write_json(aside / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        held = {name: value.contiguous().clone() for name, value in weights.items()}
        (aside / WEIGHTS).write_bytes(save(held, metadata={"format": "pt"}))
        (subword_codec(tokenizer) if isinstance(tokenizer, Codec) else tokenizer).save(aside)


def _read_fields(folder: Path) -> dict[str, Any]:
    """`config.json`, and how answers begin and end from `generation_config.json` where the former does not say it."""
    fields = read_json(folder / CONFIG)
    told = read_json(folder / _GENERATION) if (folder / _GENERATION).is_file() else {}
    return {**fields, **{name: told[name] for name in _TOLD if name in told and fields.get(name) is None}}


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def family_of(fields: dict[str, Any]) -> tuple[Family, type[Model]]:
    """The module that reads a configuration, and our class of the model."""
    name = str(fields.get("model_type", ""))
    if name not in FAMILIES:
        raise unknown("model family", name, FAMILIES)
    family: Any = import_module(f"regard.hub.{FAMILIES[name]}")
    return family, family.MODEL_TYPES[name]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder in float32, from one safetensors file or from several with an index."""
    if (folder / _INDEX).is_file():
        files = sorted({str(name) for name in read_json(folder / _INDEX).get("weight_map", {}).values()})
    else:
        files = [WEIGHTS]
    if not (folder / files[0]).is_file():
        raise _no_weights(folder)
    tensors: dict[str, Tensor] = {}
    for name in files:
        if Path(name).name != name:
            raise RegardError(f"{folder / _INDEX} names a file outside its folder: {name}")
        try:
            with safe_open(folder / name, framework="pt") as file:
                tensors |= {key: _full_precision(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise RegardError(f"{folder} lacks {name}, which its index names") from error
        except (SafetensorError, OSError) as error:
            raise RegardError(f"{folder / name} is damaged or not a safetensors file: {error}") from error
    return tensors


def _full_precision(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _no_weights(folder: Path) -> RegardError:
    pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        return RegardError(
            f"{folder} has its weights in a pickle ({pickles[0]}), which can run any code when it is opened; only "
            "safetensors are read. Take a version of the model that has model.safetensors, or convert it where you "
            "trust it: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER) in transformers"
        )
    others = [path.name for pattern in _OTHERS for path in sorted(folder.glob(pattern))]
    found = f" (only {others[0]})" if others else ""
    return RegardError(f"{folder} is not a model folder: it has no {WEIGHTS}{found}")


def _family_that_writes(model: Model) -> Family:
    name = _WRITERS.get(model.config.model_type)
    if name is None:
        raise RegardError(f"transformers has no model like this one ({model.config.model_type}): it cannot be exported")
    family: Any = import_module(f"regard.hub.{name}")
    return family  # type: ignore[no-any-return]
