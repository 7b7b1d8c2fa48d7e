"""Services that really listen, each in a thread of this process, and small models of every kind to serve."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import uvicorn

from regard.errors import RegardError
from regard.modalities.subwords import train_subwords
from regard.modalities.text import train_bpe
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.pipelines import load
from regard.pipelines.language_model import LanguageModel
from regard.pipelines.text_reader import TextReader
from regard.pipelines.text_to_text import TextToText
from regard.serve.app import create_app
from regard.serve.server import _listen
from regard.serve.settings import Settings

TEXTS = ["Python executes quickly", "Python crawls quickly", "the snake crawls over the warm stone"] * 6


def small_models(name: str) -> Any:
    """What `load` does, with a few more names: random weights, real tokenizers."""
    if name == "broken":
        raise RegardError("broken/config.json is damaged: expected a JSON object")
    if name not in ("gpt", "far", "bert", "classes", "rnn"):
        return load(name)
    torch.manual_seed(7)
    if name == "rnn":
        codec = train_bpe(TEXTS, 300)
        sizes = {"embedding_size": 8, "hidden_size": 12, "attention_size": 7, "maxout_size": 5}
        return TextToText(name, RNNSearch(RNNSearchConfig(vocab_size=codec.source.vocab_size, **sizes)).eval(), codec)
    tokenizer = train_subwords("bytes" if name in ("gpt", "far") else "wordpiece", TEXTS, 300)
    words = tokenizer.vocab_size
    if name in ("gpt", "far"):
        longest = 128 if name == "gpt" else 4096
        config = GPTConfig(vocab_size=words, n_embd=24, n_layer=2, n_head=3, n_positions=longest)
        return LanguageModel(name, GPT(config).eval(), tokenizer)
    heads = ("masked_words",) if name == "bert" else ("classification",)
    labels = () if name == "bert" else ("calm", "wild")
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "pooler": "tanh",
    }
    return TextReader(name, Bert(BertConfig(vocab_size=words, heads=heads, labels=labels, **sizes)).eval(), tokenizer)


class Running:
    """A service at an address."""

    def __init__(self, settings: Settings, loader: Callable[[str], Any] = small_models) -> None:
        self.app = create_app(replace(settings, port=0), loader)
        self.socket = _listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="error", timeout_graceful_shutdown=15, lifespan="on")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def opened(self) -> "Running":
        """Once no model is being opened any more."""
        while any(one.state == "loading" for one in self.app.state.service.shelf.volumes.values()):
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """One service with a model of every kind."""
    one = Running(Settings(models=("en-fr", "g2p", "gpt", "bert", "classes", "rnn"))).opened()
    yield one
    one.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Services with settings of one's own; all are stopped in the end."""
    begun: list[Running] = []

    def begin(*models: str, loader: Callable[[str], Any] = small_models, **settings: Any) -> Running:
        begun.append(Running(Settings(models=models or ("en-fr",), **settings), loader))
        return begun[-1]

    yield begin
    for one in begun:
        one.stop()
