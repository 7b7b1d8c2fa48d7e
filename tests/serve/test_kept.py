"""The explorer in one file, opened from disk without a network: what the model computed, and what the file lacks."""

import base64
import json
import re
import zlib

import pytest
import torch
from browser import Page, browser, needs_browser
from conftest import small_models

from regard.explain.walkthrough import walk
from regard.pipelines import load
from regard.serve.kept import can_keep, kept_page

TEXTS = ["Python executes quickly", "Python crawls quickly"]
LONG = " ".join(["the file that you open could not be found on the server"] * 10)


@pytest.fixture(scope="module")
def chromium():
    with browser() as one:
        yield one


@pytest.fixture
def opened(chromium, tmp_path):
    """A file as somebody opens it who is offline; whatever it asks of a network is an error."""
    pages = []

    def begin(text):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        page = Page(chromium, path.as_uri(), reduced_motion="reduce", offline=True)
        page.page.on(
            "request", lambda sent: sent.url.startswith(("file:", "data:", "blob:")) or page.said.append(sent.url)
        )
        page.page.goto(page.address)
        pages.append(page.drawn())
        return page

    yield begin
    for page in pages:
        page.close()


def kept_in(text):
    return json.loads(zlib.decompress(base64.b64decode(re.search('id="kept">(.*?)</script>', text)[1])))


def shown(page, view):
    page.page.locator(f"#tab-{view}").click()
    page.drawn(view)
    return page.text(".view")


@needs_browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_view_from_a_file_without_a_network(opened):
    model = load("en-fr")
    results = model.explain(*TEXTS, query="quickly", layer=1, head=2).results
    page = opened(kept_page(model, TEXTS, results))
    assert page.text(".view h2").startswith("1. Embedding")
    assert page.page.locator('.words [aria-checked="true"]').inner_text() == "quickly"
    trace = model.trace(TEXTS)
    numbers = page.page.locator('svg [data-number="weight"]').all_text_contents()
    expected = walk(trace, "quickly", 1, 2).weights[2]
    assert [float(one.removesuffix(" %")) for one in numbers] == pytest.approx((100 * expected).tolist(), abs=0.06)
    assert "“quickly” looks at" in shown(page, "heads")
    assert page.page.locator(".plate").count() == 24
    page.page.locator('[data-key="head0-4"]').click()
    page.drawn("heads")
    assert "In layer 0, head 4, “quickly”" in page.text(".view .lead:last-child")
    assert "“quickly” in 2 texts" in shown(page, "contexts")
    assert "Other sentences: This page keeps what was computed" in page.text(".view")
    assert shown(page, "answers").startswith(model.translate(TEXTS)[0])
    page.page.locator(".token").nth(1).click(force=True)
    assert "begin" not in page.state(), "nothing to go on with"
    assert "the model has to run again. This page keeps what was computed and has no model in it" in shown(
        page, "what-if"
    )
    assert '"quickly" in "Python executes quickly"' in shown(page, "questions")
    assert page.page.locator('[data-key="text0"]').get_attribute("readonly") is not None
    page.page.locator("#tab-process").click()
    page.drawn("process")
    page.page.locator('[data-key="kind"], [data-key="attention"]').first.select_option("cross")
    page.page.wait_for_selector(".view:not([aria-busy])")
    page.page.locator('[data-key="word4"]').click()
    page.page.wait_for_selector(".view:not([aria-busy])")


@needs_browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_long_text_stays_below_a_megabyte_and_says_what_it_lacks(opened):
    model = load("en-fr")
    text = kept_page(model, [LONG], model.explain(LONG).results)
    assert len(text.encode()) < 1_000_000
    page = opened(text)
    assert "Weights of this long text are kept to about 0.004" in page.text(".foot")
    page.page.locator("#tab-heads").click()
    page.page.wait_for_selector('canvas[data-exact="true"]')
    box = page.page.locator(".map canvas").bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * 0.21, box["y"] + box["height"] * 0.2)
    query, key, value = re.fullmatch(r".* \((\d+)\) → .* \((\d+)\): (.*)", page.text("#tip")).groups()
    head = int(page.page.locator(".map canvas").get_attribute("data-head"))
    expected = model.trace([LONG]).weights(0, head)[int(query), int(key)]
    assert float(value) == pytest.approx(float(expected), abs=0.004)
    page.page.locator("#tab-process").click()
    page.drawn("process")
    page.page.locator('[data-key="layer"]').select_option("2")
    page.page.locator('[data-key="word30"]').click()
    page.page.wait_for_selector('.view[data-shown="failed"]')
    assert "not in this page. It keeps that of encoder layer 0 (the" in page.text(".view")


@pytest.mark.parametrize("name", ["gpt", "bert", "classes"])
def test_every_kind_of_model_is_kept(name):
    model = small_models(name)
    assert can_keep(model)
    text = "the [MASK] crawls" if name == "bert" else "the snake crawls"
    kept = kept_in(kept_page(model, [text], [model.explain(text).walkthrough]))["answers"]
    process = next(value for key, value in kept.items() if key.startswith("/api/process"))
    assert process["difference_from_fast_run"] < 1e-5
    assert not [key for key, value in kept.items() if "error" in value and "answers" not in key]


def test_recurrent_models_have_the_page_of_their_gates():
    assert not can_keep(small_models("rnn"))


def test_hostile_texts_end_no_script():
    model = small_models("gpt")
    text = kept_page(model, ["</script><script>alert(1)</script> <!-- snake"], [])
    assert text.count("<script") == 2
    assert text.count("</script>") == 2


def test_weights_of_few_digits_are_near():
    from regard.serve.kept import _coded
    from regard.serve.looks import packed

    weights = (8 * torch.rand(3, 50)).softmax(dim=-1)
    for bits, near in ((16, 8e-6), (8, 0.004), (4, 0.034)):
        coded, kind = _coded(packed(weights), bits), "uint16" if bits == 16 else "uint8"
        numbers = torch.frombuffer(bytearray(base64.b64decode(coded[kind])), dtype=getattr(torch, kind)).float()
        found = numbers / 65535 if bits == 16 else (numbers / 255) ** 2
        torch.testing.assert_close(found.view(3, 50), weights, atol=near, rtol=0)
