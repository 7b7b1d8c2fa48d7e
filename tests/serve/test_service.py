"""The service as a client sees it: answers that are the models', errors that say what is wrong, and its guards."""

import asyncio
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch

from regard.errors import RegardError
from regard.pipelines import load
from regard.pipelines.text_to_text import TextToText
from regard.serve.settings import Settings


def call(address, path, body=None, method=None, raw=None, **headers):
    """(status, answer, headers)."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    asked = Request(address + path, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except HTTPError as error:
        return error.code, error.read().decode(), error.headers


def asked(address, path, body=None, **headers):
    status, text, _ = call(address, path, body, **headers)
    assert status == 200, text
    return json.loads(text)


def refused(address, path, body=None, **headers):
    status, text, _ = call(address, path, body, **headers)
    error = json.loads(text)["error"]
    assert error["code"] == status
    return status, error["message"]


def test_answers_are_the_models(running):
    texts = ["Open the file.", "The package was not found."]
    found = asked(running.address, "/api/run/translate", {"model": "en-fr", "texts": texts, "beams": 2})
    assert found["answers"] == load("en-fr").translate(texts, beams=2)
    assert len(found["hypotheses"][0]) == 2
    pipelines = {name: one.pipeline for name, one in running.app.state.service.shelf.volumes.items()}
    told = asked(running.address, "/api/run/generate", {"model": "gpt", "texts": ["the snake"], "tokens": 9})
    assert ["the snake" + told["answers"][0]] == pipelines["gpt"].generate(["the snake"], 9)
    classes = asked(running.address, "/api/run/classify", {"model": "classes", "texts": ["the snake"]})
    assert classes["answers"][0] == pipelines["classes"].classify(["the snake"])[0][0].text
    words = asked(running.address, "/api/run/fill", {"model": "bert", "texts": ["the [MASK] crawls"], "count": 3})
    assert [one["text"] for one in words["words"][0][0]] == [
        one.text for one in pipelines["bert"].fill("the [MASK] crawls", 3)[0]
    ]
    vector = asked(running.address, "/api/run/embed", {"model": "bert", "texts": ["the snake"]})["embeddings"][0]
    assert torch.allclose(torch.tensor(vector), pipelines["bert"].embed(["the snake"])[0], atol=1e-6)


def test_a_stream_is_the_answer_in_pieces(running):
    body = {"model": "gpt", "texts": ["the snake"], "tokens": 9}
    whole = asked(running.address, "/api/run/generate", body)["answers"][0]
    _, text, headers = call(running.address, "/api/run/generate", body | {"stream": True})
    assert headers["Content-Type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    assert len(lines) > 3
    assert "".join(json.loads(line)["text"] for line in lines) == whole
    drawn = body | {"temperature": 1.5, "seed": 4}
    one, same = (asked(running.address, "/api/run/generate", drawn)["answers"] for _ in range(2))
    assert one == same


def test_requests_are_answered_together(start):
    loaded, sizes = load("en-fr"), []

    class Watched(TextToText):
        """The translator, slow enough that others come meanwhile."""

        def hypotheses(self, texts, *rest):
            sizes.append(len(texts))
            time.sleep(0.2)
            return super().hypotheses(texts, *rest)

    one = start(loader=lambda _: Watched("en-fr", loaded.model, loaded.codec)).opened()
    texts = [f"Open file {number}." for number in range(12)]

    def ask(text):
        return asked(one.address, "/api/run/translate", {"model": "en-fr", "texts": [text]})["answers"][0]

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, texts))
    assert found == loaded.translate(texts)
    assert sum(sizes) == 12
    assert len(sizes) < 8, f"answered in batches of {sizes}"


def test_one_wrong_text_harms_no_other(running):
    def ask(text):
        return call(running.address, "/api/run/translate", {"model": "en-fr", "texts": [text]})[0]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, ["Open the file.", "x " * 400] * 4))
    assert found == [200, 422] * 4


@pytest.mark.parametrize(
    ("path", "body", "code", "told"),
    [
        ("/api/run/translate", {"model": "nothing", "texts": ["a"]}, 422, "no model 'nothing'"),
        ("/api/run/translate", {"model": "../../etc/passwd", "texts": ["a"]}, 422, "no model"),
        ("/api/run/translate", {"model": "gpt", "texts": ["a"]}, 422, "gpt cannot translate: it can generate"),
        ("/api/run/translate", {"model": "en-fr", "texts": []}, 422, "texts: List should have at least 1 item"),
        ("/api/run/translate", {"model": "en-fr", "texts": [" "]}, 422, "the text is empty"),
        ("/api/run/translate", {"model": "en-fr", "texts": ["a"], "template": "{{x}}"}, 422, "template: Extra inputs"),
        ("/api/run/translate", {"model": "en-fr", "texts": ["\ud800"]}, 422, "texts.0: "),
        ("/api/run/translate", {"model": "en-fr", "texts": ["a" * 20_001]}, 422, "20,001 characters"),
        ("/api/run/generate", {"model": "gpt", "texts": ["a", "b"], "stream": True}, 422, "one text"),
        ("/api/run/fill", {"model": "bert", "texts": ["no mask"]}, 422, "there is no hidden word to fill in"),
        ("/api/process", {"model": "en-fr", "texts": ["a"], "layer": 9}, 422, "there is no layer 9"),
        ("/api/view/lens", {"model": "en-fr", "texts": ["a"], "head": 1}, 422, "lens takes no head"),
        ("/api/heads", {"model": "en-fr", "texts": ["a"], "kind": "cross", "row": 3}, 422, "there is no text 3"),
        ("/api/heads", {"model": "gpt", "texts": ["a"], "kind": "cross"}, 422, "this model has no cross-attention"),
        (
            "/api/view/heads",
            {"model": "gpt", "texts": ["a"], "kind": "cross"},
            422,
            "this model has no cross-attention",
        ),
        ("/api/view/intervention", {"model": "gpt", "texts": ["a"], "kind": "cross"}, 422, "has no cross-attention"),
        ("/api/view/nothing", {"model": "en-fr", "texts": ["a"]}, 422, "no view 'nothing'"),
        ("/api/what-if", {"model": "en-fr", "texts": ["a"], "edits": ["x head=1"]}, 422, "no place 'x'"),
        ("/api/answers", {"model": "en-fr", "texts": ["a"], "begin": [99999]}, 422, "there is no token 99999"),
        ("/v1/completions", {"model": "bert", "prompt": "a"}, 422, "bert writes nothing"),
        ("/v1/completions", {"model": "gpt", "prompt": "a", "n": 2}, 422, "n: "),
        ("/nothing", None, 404, "Not Found"),
    ],
)
def test_a_mistake_is_told(running, path, body, code, told):
    found = refused(running.address, path, body)
    assert found[0] == code
    assert told in found[1]


def test_a_body_that_is_no_json_or_too_large(running):
    assert call(running.address, "/api/run/translate", raw=b"{")[0] == 400
    assert call(running.address, "/api/run/translate", raw=b"[" * 200_000)[0] == 400
    assert call(running.address, "/api/run/translate", raw=b"\xff\xfe")[0] == 400
    for body, chunked in ((b" " * ((1 << 20) + 1), False), ((b" " * 300_000 for _ in range(5)), True)):
        connection = http.client.HTTPConnection(running.address.removeprefix("http://"))
        headers = {"Transfer-Encoding": "chunked"} if chunked else {}
        with suppress(OSError):  # the answer may come before all is sent
            connection.request("POST", "/api/run/translate", body, headers, encode_chunked=chunked)
        with connection.getresponse() as answer:
            assert answer.status == 413
        connection.close()


def test_a_model_that_cannot_be_opened_is_told_with_its_reason(start):
    one = start("broken", "en-fr").opened()
    status, text, _ = call(one.address, "/ready")
    told = {model["name"]: model for model in json.loads(text)["models"]}
    assert status == 503
    assert told["broken"]["state"] == "failed"
    assert told["broken"]["reason"] == "broken/config.json is damaged: expected a JSON object"
    assert asked(one.address, "/api/run/translate", {"model": "en-fr", "texts": ["Open."]})["answers"]
    status, message = refused(one.address, "/api/run/translate", {"model": "broken", "texts": ["a"]})
    assert (status, "damaged" in message) == (503, True)
    assert asked(one.address, "/health") == {"status": "alive"}


@pytest.mark.parametrize(("bound", "code"), [({"waiting": 2}, 503), ({"a_client": 2}, 429)])
def test_the_line_a_clients_share_and_the_time_have_bounds(start, bound, code):
    held, begun = threading.Event(), threading.Event()
    one = start(seconds=2.5, **bound).opened()  # long enough that all eight come before the first goes
    engine = one.app.state.service.engine
    hold = lambda: (begun.set(), held.wait())  # noqa: E731
    blocker = threading.Thread(target=lambda: asyncio.run(engine.run(hold, patient=True)))
    blocker.start()
    assert begun.wait(60)
    body = {"model": "en-fr", "texts": ["Open."]}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: call(one.address, "/api/run/translate", body), range(8)))
    assert engine.length == 0  # nobody waits for an answer any more: it is not begun
    held.set()
    blocker.join()
    codes = [status for status, _, _ in found]
    assert set(codes) == {code, 504}
    assert codes.count(504) == 2
    assert all(headers["Retry-After"] for status, _, headers in found if status == code)
    assert asked(one.address, "/api/run/translate", body)["answers"]
    counted = call(one.address, "/metrics")[1]
    assert 'regard_requests_total{path="/api/run/translate",status="504"} 2.0' in counted
    assert "regard_batch_texts_count" in counted


def test_traces_stay_under_the_bound(start):
    one = start(memory=200_000).opened()
    for number in range(12):
        asked(one.address, "/api/trace", {"model": "en-fr", "texts": [f"Open file {number} now"]})
    traces = one.app.state.service.traces
    assert 0 < traces.size <= 200_000
    assert len(traces) < 12
    assert refused(one.address, "/api/trace", {"model": "en-fr", "texts": ["Open the file " * 20]})[0] == 422


def test_others_may_not_ask(start):
    token = "a token of some length"
    one = start(token=token, origins=("https://example.org",)).opened()
    assert refused(one.address, "/api/models")[0] == 401
    assert refused(one.address, "/metrics", Authorization="Bearer another")[0] == 401
    assert refused(one.address, "/v1/models", Authorization="Bearer \xe9")[0] == 401
    assert call(one.address, "/health")[0] == 200
    assert call(one.address, "/")[0] == 200
    mine = {"Authorization": f"Bearer {token}"}
    assert asked(one.address, "/api/models", **mine)["models"][0]["name"] == "en-fr"
    assert refused(one.address, "/api/models", **mine, Origin="https://evil.example")[0] == 403
    assert refused(one.address, "/api/models", **mine, Host="evil.example")[0] == 403
    status, _, headers = call(one.address, "/api/models", **mine, Origin="https://example.org")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://example.org")
    status, _, headers = call(
        one.address, "/api/models", method="OPTIONS", Origin="https://example.org",
        **{"Access-Control-Request-Headers": "authorization"},
    )  # fmt: skip
    assert (status, headers["Access-Control-Allow-Headers"]) == (204, "authorization")


def test_beyond_this_machine_a_token_and_origins_are_needed():
    for chosen in ({}, {"token": "a token of some length"}, {"origins": ("none",)}):
        with pytest.raises(RegardError, match="needs a token"):
            Settings(models=("en-fr",), host="0.0.0.0", **chosen)
    assert Settings(models=("en-fr",), host="::1").beyond is False
    with pytest.raises(RegardError, match="16 ASCII characters"):
        Settings(models=("en-fr",), token="short")


def test_only_the_pages_own_files_are_given(running):
    for path in ("/page/../settings.py", "/page/%2e%2e%2fsettings.py", "/page/settings.py", "/page/..%5csettings.py"):
        assert call(running.address, path)[0] == 404, path


def test_a_stop_lets_what_was_begun_be_answered(start):
    loaded, begun, found = load("en-fr"), threading.Event(), []

    class Watched(TextToText):
        """The translator, which tells when it has begun."""

        def hypotheses(self, texts, *rest):
            begun.set()
            return super().hypotheses(texts, *rest)

    one = start(loader=lambda _: Watched("en-fr", loaded.model, loaded.codec)).opened()
    long = {"model": "en-fr", "texts": ["Open the file and close the window."] * 12, "beams": 8}
    asking = threading.Thread(target=lambda: found.append(call(one.address, "/api/run/translate", long)[0]))
    asking.start()
    assert begun.wait(60)
    one.stop()
    asking.join()
    assert found == [200]


def test_the_reference_names_every_path(running):
    page = call(running.address, "/docs")[1]
    for path in asked(running.address, "/openapi.json")["paths"]:
        assert path in page
    assert "<script" not in page
