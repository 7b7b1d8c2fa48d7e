"""OpenAI's own client against the service."""

import pytest
import torch

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as one:
        yield one


def test_models(client):
    assert [one.id for one in client.models.list()] == ["en-fr", "g2p", "gpt", "bert", "classes", "rnn"]


def test_completions(client, running):
    pipeline = running.app.state.service.shelf.volumes["gpt"].pipeline
    prompts = ["the snake", "Python crawls"]
    found = client.completions.create(model="gpt", prompt=prompts, max_tokens=8, temperature=0)
    assert [prompt + one.text for prompt, one in zip(prompts, found.choices, strict=True)] == pipeline.generate(
        prompts, 8
    )
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 16
    assert found.usage.total_tokens == 16 + sum(len(pipeline.check(prompt)) for prompt in prompts)
    streamed = client.completions.create(model="gpt", prompt=prompts[0], max_tokens=8, stream=True)
    assert "".join(one.choices[0].text for one in streamed) == found.choices[0].text
    echoed = client.completions.create(model="gpt", prompt=prompts[0], max_tokens=8, echo=True)
    assert echoed.choices[0].text == prompts[0] + found.choices[0].text


def test_a_stop_ends_the_text_streamed_or_not(client):
    whole = client.completions.create(model="gpt", prompt="the snake", max_tokens=12).choices[0].text
    stop = whole[3:5]
    cut = client.completions.create(model="gpt", prompt="the snake", max_tokens=12, stop=[stop])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    streamed = client.completions.create(model="gpt", prompt="the snake", max_tokens=12, stop=stop, stream=True)
    assert "".join(one.choices[0].text for one in streamed) == cut.choices[0].text


def test_a_translator_completes_with_its_translation(client):
    found = client.completions.create(model="en-fr", prompt="Open the file.")
    assert found.choices[0].text == "Ouvrez le fichier."
    assert found.choices[0].finish_reason == "stop"
    one = client.completions.create(model="en-fr", prompt="Open the file.", max_tokens=2)
    assert found.choices[0].text.startswith(one.choices[0].text)
    assert one.choices[0].finish_reason == "length"


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings(client, running, form):
    texts = ["the snake", "Python crawls"]
    found = client.embeddings.create(model="bert", input=texts, encoding_format=form)
    vectors = running.app.state.service.shelf.volumes["bert"].pipeline.embed(texts)
    if form == "float":
        assert torch.allclose(torch.tensor([one.embedding for one in found.data]), vectors, atol=1e-6)
    by_default = client.embeddings.create(model="bert", input=texts)  # the client asks for base64 and unpacks it
    assert torch.allclose(torch.tensor([one.embedding for one in by_default.data]), vectors, atol=1e-6)


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.UnprocessableEntityError, match="no model 'nothing'"):
        client.completions.create(model="nothing", prompt="a")
