"""The explorer in a real browser: every view, its numbers those of the trace, linked, by keyboard, at any width."""

import re
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager

import pytest
import torch
from browser import AXE, Page, browser, needs_browser

from regard.explain.edits import KnockOut
from regard.explain.intervention import intervene
from regard.explain.walkthrough import walk
from regard.pipelines import load

pytestmark = [needs_browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
TEXTS = ["Python executes quickly", "Python crawls quickly"]
VIEWS = ["process", "heads", "contexts", "answers", "what-if", "questions"]
MODELS = {
    "en-fr": TEXTS,
    "gpt": TEXTS,
    "bert": ["the [MASK] crawls", "the snake crawls"],
    "classes": TEXTS,
    "rnn": TEXTS[:1],
}


@pytest.fixture(scope="module")
def chromium():
    with browser() as one:
        yield one


@pytest.fixture
def page(chromium, running):
    one = Page(chromium, running.address, reduced_motion="reduce")
    yield one
    one.close()


def shown(number):
    return float(number.replace("\u2212", "-").removesuffix(" %"))


def strips(page):
    """Every strip of numbers that is drawn, by its name."""
    return page.page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.strip')].filter(one => one.values
        && !one.getAttribute('aria-label').startsWith(',')).map(one =>
        [one.getAttribute('aria-label').replace(/, \\d+ numbers.*/, ''), one.values]))"""
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.slow
def test_every_view_of_every_kind_of_model(page, model):
    for view in VIEWS:
        page.open(model=model, text=MODELS[model], view=view)
        failed = page.page.locator(".view .failed")
        if model == "rnn" and view == "contexts":
            continue  # one text: there is nothing to compare
        assert failed.count() == 0, (model, view, failed.first.inner_text())
        assert len(page.text(".view")) > 30


@pytest.mark.parametrize(
    ("model", "texts", "layer", "head", "kind"),
    [("en-fr", TEXTS, 0, 3, "encoder"), ("g2p", ["python"], 2, 1, "encoder"), ("en-fr", TEXTS[:1], 2, 5, "cross"),
     ("gpt", TEXTS[:1], 1, 2, "decoder"), ("bert", ["the snake crawls"], 1, 0, "encoder")],
)  # fmt: skip
def test_the_process_shows_the_traces_numbers(page, running, model, texts, layer, head, kind):
    page.open(model=model, text=texts, layer=layer, head=head, kind=kind, word=1)
    trace = running.app.state.service.shelf.volumes[model].pipeline.trace(texts)
    side = "source" if kind == "encoder" or trace.target is None else "target"
    token = trace.words(0, side)[1].places[0 if kind == "encoder" else -1]
    expected = walk(trace, token, layer, head, kind=kind)
    a, steps, found = expected.attention, expected.steps, strips(page)
    norm_first = expected.norm_first
    wanted = {
        f"query of {expected.asking}": steps[f"{a}.queries"][head, 0],
        **{f"mixed values, head {number}": steps[f"{a}.mixed"][number, 0] for number in range(expected.heads)},
        "attention's output, projected": steps[f"{a}.output"][0],
        "inner numbers after the non-linearity": steps["feed_forward.activated"][0],
        "feed-forward output": steps["feed_forward.output"][0],
        "x, what enters the layer": expected.entering,
    }
    for words in expected.words:
        for piece, place in zip(words.pieces, words.places, strict=True):
            wanted[f"key of {piece}"] = steps[f"{a}.keys"][head, place]
            wanted[f"value of {piece}"] = steps[f"{a}.values"][head, place]
    if not norm_first:
        wanted[f"{expected.norm} of the sum"] = steps["output"][0]
    repeated = {name for word in expected.words for name in word.pieces if [
        piece for one in expected.words for piece in one.pieces].count(name) > 1}  # fmt: skip
    for name, values in wanted.items():
        if name.split(" of ")[-1] not in repeated:
            torch.testing.assert_close(torch.tensor(found[name]), values, rtol=2e-3, atol=1e-5)
    for kind_of, values, scale in (
        ("score", expected.scores[head, [place for word in expected.words for place in word.places]], 1),
        ("scaled", expected.scaled_scores[head], 1),
        ("weight", expected.weights[head], 100),
    ):
        numbers = page.page.locator(f'svg [data-number="{kind_of}"]').all_text_contents()
        assert len(numbers) == len(values)
        for number, value in zip(numbers, values.tolist(), strict=True):
            assert shown(number) == pytest.approx(value * scale, abs=0.06)


def test_each_step_has_its_formula_with_the_traces_numbers(page):
    trace = load("en-fr").trace(TEXTS)
    expected = walk(trace, 0, 0, 3)
    page.open(text=TEXTS, head=3)
    best = int(expected.weights[3].argmax())
    steps = expected.steps
    ends = [
        expected.embedding["output"][0, 0], None, expected.scores[3, expected.words[best].places[0]],
        expected.scaled_scores[3, best], expected.weights[3, best], steps["self_attention.mixed"][3, 0, 0],
        torch.ones(()),
        steps["self_attention.output"][0, 0], steps["self_attention_residual.output"][0, 0],
        steps["feed_forward.output"][0, 0], steps["output"][0, 0],
    ]  # fmt: skip
    for number, value in enumerate(ends):
        page.page.locator(".steps button").nth(number).click()
        assert page.state().get("step", "0") == str(number)
        assert page.text(".told h2").startswith(f"{number + 1}. ")
        assert page.text(".told .formula")
        last = re.findall("[\u2212\\d.]+", page.text(".told .filled"))[-1].rstrip(".")
        if value is not None:
            assert shown(last) == pytest.approx(float(value), abs=0.006)
    assert "✓" in page.text(".told .holds")


def test_play_scrub_and_pause_move_the_picture(chromium, running):
    page = Page(chromium, running.address)
    page.open(text=TEXTS)
    box = lambda: page.page.locator("svg.picture").get_attribute("viewBox")  # noqa: E731
    first = box()
    page.page.get_by_role("button", name="Play").click()
    page.page.get_by_role("heading", name="3. Dot product").wait_for()
    page.page.get_by_role("button", name="Pause").click()
    assert box() != first
    moved = page.page.locator('input[type="range"]').input_value()
    assert 1 < float(moved) < 3
    page.page.locator('input[type="range"]').evaluate(
        "one => { one.value = 1.5; one.dispatchEvent(new Event('input')) }"
    )
    flying = page.page.locator('svg.picture > .strip[visibility="visible"]').count()
    assert 1 <= flying <= 2, "the query is on its way to a key"
    page.page.get_by_role("button", name="Whole picture").click()
    assert box().startswith("-12.0 -12.0")
    page.close()


def test_what_is_chosen_in_one_view_is_chosen_in_all_and_in_the_address(page):
    page.open(text=TEXTS, view="heads")
    page.page.locator('[data-key="word2"]').click()
    page.drawn("heads")
    page.page.locator('[data-key="head1-4"]').click()
    page.drawn("heads")
    assert page.state() == {"model": "en-fr", "view": "heads", "word": "2", "layer": "1", "head": "4"}
    assert "“quickly” looks at" in page.text(".view")
    weights = load("en-fr").trace(TEXTS[:1]).weights(1, 4)
    words = load("en-fr").trace(TEXTS[:1]).words()
    row = torch.stack([weights[words[2].places[0], list(word.places)].sum() for word in words])
    assert f"{words[int(row.argmax())].text} ({float(row.max()):.3f})" in page.text(".view .lead:last-child")
    address = page.page.url
    for view, where in (("process", ".steps"), ("contexts", "h2"), ("what-if", "h3")):
        page.page.locator(f"#tab-{view}").click()
        page.drawn(view)
        assert page.page.locator('.words [aria-checked="true"]').inner_text() == "quickly"
        assert page.page.locator(f".view {where}").count()
    assert "“quickly”" in page.text(".view h3:has-text('Weights of')")
    page.page.goto("about:blank")
    page.page.goto(address)
    page.drawn("heads")
    assert page.page.locator('[data-key="head1-4"]').get_attribute("aria-checked") == "true"


def test_an_alternative_is_gone_on_from(page):
    page.open(text=["Open the file"], view="answers")
    model = load("en-fr")
    assert page.text(".view h2") == model.translate(["Open the file"])[0]
    other = page.page.locator(".produced > li").first.locator(".token").nth(1)
    name = other.locator("span").first.inner_text()
    other.click()
    page.page.locator(".view h2", has_text=re.compile(f"^{re.escape(name)}")).wait_for()
    assert page.text(".texts .answer") == page.text(".view h2")
    beams = page.page.locator('[data-key="beams"]')
    assert beams.is_disabled()
    page.page.locator('[data-key="free"]').click()
    page.page.wait_for_selector('[data-key="beams"]:enabled')
    beams.select_option("3")
    page.page.wait_for_selector(".tree")
    assert page.page.locator(".tree li b").first.inner_text() == "(begin)"


def test_a_node_of_the_beam_is_gone_on_from_by_keyboard(page):
    """The tree is one stop of Tab, arrows go from node to node, Enter goes on from there; the end is no button."""
    page.open(text=["Open the file"], view="answers", beams=4)
    nodes = page.page.locator(".tree button")
    ways = nodes.evaluate_all("all => all.map(one => one.dataset.key.slice(4).split('-').map(Number))")
    model = load("en-fr")
    produced = model.trace(["Open the file"]).target[0].tolist()[1:]
    assert all(model.model.config.eos_token_id not in way for way in ways)
    assert page.page.locator(".tree button[tabindex='0']").count() == 1
    other = next(number for number, way in enumerate(ways) if len(way) > 1 and way != produced[: len(way)])
    nodes.first.focus()
    for _ in range(other):
        page.page.keyboard.press("ArrowDown")
    assert page.page.evaluate("document.activeElement.dataset.key") == "node" + "-".join(map(str, ways[other]))
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector('[data-key="free"]')
    page.drawn("answers")
    begin = ways[other]
    assert page.state()["begin"] == ",".join(map(str, begin))
    words = page.page.locator(".produced > li > button").all_inner_texts()[: len(begin)]
    assert words == [model.codec.target.spell(token) for token in begin]
    assert page.page.evaluate("document.activeElement.dataset.key").startswith("at"), "focus stays on the answer"


def test_a_silenced_head_a_hidden_word_and_a_dragged_weight(page):
    page.open(text=["Open the file"], view="what-if")
    trace = load("en-fr").trace(["Open the file"])
    place = "encoder.layers.0.self_attention"
    page.page.locator(f'[data-key="{place} head=2"]').click()
    page.page.wait_for_selector(".chips li")
    page.drawn("what-if")
    expected = intervene(trace, [KnockOut(place, 2)], 0)
    rows = page.page.locator(".view tbody tr").all_inner_texts()
    for row, name, after in zip(rows, expected.names, expected.after, strict=True):
        cells = row.split("\t")
        assert cells[0] == name
        assert float(cells[2]) == pytest.approx(after, abs=6e-4)
    page.page.locator('[data-key="hide2"]').click()
    page.page.wait_for_selector('[data-key="hide2"][aria-pressed="true"]')
    page.drawn("what-if")
    page.page.locator('[data-key="undo"]').click()
    page.page.wait_for_selector(".chips li", state="detached")
    page.drawn("what-if")
    slider = page.page.locator('[data-key="weight1"]')
    slider.focus()
    page.page.keyboard.press("End")
    page.page.wait_for_selector(".chips li")
    page.drawn("what-if")
    assert page.page.evaluate("new URLSearchParams(location.hash.slice(1)).get('edit')").endswith(
        "query=0 weights=0,1,0,0"
    )
    assert page.page.evaluate("document.activeElement.dataset.key") == "weight1"
    page.page.locator('[data-key="free"]').click()
    page.page.wait_for_selector(".chips li", state="detached")


def test_an_address_that_was_typed_wrong_can_be_mended_on_the_page(chromium, running):
    with opened(chromium, running.address) as page:  # a refused change is a 422, which the browser tells in its console
        page.open(text=["Open the file"], view="what-if", edit="nonsense head=1")
        assert "no place 'nonsense' (known: decoder.layers.0," in page.text(".failed")
        page.page.locator('[data-key="undo"]').click()
        page.page.wait_for_selector(".versus")
        page.page.goto("about:blank")
        page.page.goto(f"{page.address}/#view=nowhere")
        page.drawn("process")
        assert "view" not in page.state()


def test_by_keyboard_alone(page):
    page.open(text=TEXTS)
    press = page.page.keyboard.press
    press("2")
    page.drawn("heads")
    press("w")
    page.page.wait_for_selector('[data-key="word1"][aria-checked="true"]')
    press("l")
    page.page.wait_for_selector('[data-key="head1-0"]')
    page.drawn("heads")
    press("h")
    page.drawn("heads")
    assert page.state()["layer"] == "1"
    press("1")
    page.drawn("process")
    press(".")
    assert page.text(".told h2") == "2. Query, keys, values"
    page.page.locator(".strip").first.focus()
    press("ArrowRight")
    press("ArrowRight")
    said = page.text("[role=status].unseen")
    name, place, value = re.fullmatch("(.*) \\[(\\d)\\] = (.*)", said).groups()
    assert shown(value) == pytest.approx(strips(page)[name][int(place)], abs=6e-5)
    page.page.locator("#tab-process").focus()
    press("ArrowRight")
    press("Enter")
    page.drawn("heads")
    press("?")
    assert page.page.locator("dialog[open]").count() == 1
    press("Escape")
    page.page.wait_for_selector("dialog", state="detached")


def test_the_tour_leads_through_every_view(page):
    page.open(text=["something else"], view="answers")
    page.page.get_by_role("button", name="Tour").click()
    seen = []
    while page.page.locator(".tour").count():
        page.drawn()
        seen.append(page.page.locator(".view").get_attribute("data-shown"))
        page.page.locator(".tour .row button").nth(1).click()
    assert len(seen) == 10
    assert list(dict.fromkeys(seen)) == ["process", "heads", "contexts", "answers", "what-if"]
    assert page.page.locator('[data-key="text0"]').input_value() == TEXTS[0]


@pytest.mark.parametrize("view", ["process", "heads", "contexts", "what-if"])
def test_any_view_is_saved_as_an_image(page, view, tmp_path):
    page.open(text=TEXTS, view=view, step=4)
    for kind in ("SVG", "PNG"):
        with page.page.expect_download() as download:
            page.page.get_by_role("button", name=kind, exact=True).click()
        download.value.save_as(tmp_path / f"picture.{kind}")
    svg = (tmp_path / "picture.SVG").read_text(encoding="utf-8")
    assert len(list(ElementTree.fromstring(svg).iter())) > 20
    assert "var(" not in svg
    assert (tmp_path / "picture.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_long_text_is_a_map_whose_tiles_are_the_traces(page):
    text = " ".join(["open the file and close the window"] * 20)
    page.open(text=[text], view="heads", layer=1, head=2)
    page.page.wait_for_selector('canvas[data-exact="true"]')
    trace = load("en-fr").trace([text])
    cell = int(re.search(r"a cell is (\d+)", page.text(".map")).group(1))
    expected = trace.map(1, 2, (slice(0, 64 * cell), slice(0, 64 * cell)), (64, 64)).largest
    canvas = page.page.locator(".map canvas")
    told = []
    box = canvas.bounding_box()
    for share in (0.05, 0.3, 0.7):
        page.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * share)
        told.append(page.text("#tip"))
    for one in told:
        query, key, value = re.fullmatch(r".* \((\d+)\) → .* \((\d+)\): (.*)", one).groups()
        assert shown(value) == pytest.approx(float(expected[int(query) // cell, int(key) // cell]), abs=6e-5)
    canvas.focus()
    page.page.keyboard.press("+")
    page.page.locator(".map p", has_text=f"a cell is {cell // 2} ").wait_for()
    page.page.locator("#tab-contexts").click()
    page.drawn("contexts")
    page.page.locator("#tab-heads").click()
    page.drawn("heads")
    assert f"a cell is {cell // 2} " in page.text(".map p"), "the map is where it was left"


def test_a_very_long_text_is_seen_at_once_and_then_exactly(chromium, start):
    one = start("far").opened()
    pipeline = one.app.state.service.shelf.volumes["far"].pipeline
    text, place, number = "the snake crawls " * 900, "decoder.layers.1.self_attention", 2
    page, asked = Page(chromium, one.address), []
    page.page.on("request", lambda sent: asked.append(sent.post_data_json) if sent.url.endswith("/api/map") else None)
    page.open(text=[text], view="heads", layer=1, head=number)
    page.page.wait_for_selector('canvas[data-exact="true"]', timeout=60_000)
    assert asked[0]["sampled"]
    assert not asked[-1]["sampled"]
    trace = pipeline.trace([text])
    canvas, told = page.page.locator(".map canvas"), []
    tokens = len(trace.source[0])
    cell = int(re.search(r"a cell is (\d+)", page.text(".map")).group(1))
    expected = trace.map(place, number, resolution=(-(-tokens // cell),) * 2).largest
    box = canvas.bounding_box()
    for share in (0.05, 0.3, 0.7):
        page.page.mouse.move(box["x"] + box["width"] * share / 2, box["y"] + box["height"] * share)
        told.append(page.text("#tip"))
    for one in told:
        query, key, value = re.fullmatch(r".* \((\d+)\) → .* \((\d+)\): (.*)", one).groups()
        assert shown(value) == pytest.approx(float(expected[int(query) // cell, int(key) // cell]), abs=6e-5)
    page.page.wait_for_selector('[data-layers="2"]')  # layer by layer, the small maps of all heads
    page.close()


def test_it_fits_a_phone_and_a_tablet(page):
    for view in VIEWS:
        page.open(text=TEXTS, view=view)
        for width in (390, 820):
            page.page.set_viewport_size({"width": width, "height": 800})
            assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (view, width)


@pytest.mark.slow
@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core, see .ci/run")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(chromium, running, scheme):
    page = Page(chromium, running.address, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    for view, step in [("process", 1), *((view, 10) for view in (VIEWS if scheme == "light" else VIEWS[::4]))]:
        page.open(text=TEXTS, view=view, step=step)
        page.page.add_script_tag(path=AXE)
        found = page.page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']})")
        told = [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in found["violations"]]
        assert told == [], view
    page.close()


@contextmanager
def opened(chromium, address):
    page = Page(chromium, address)
    yield page
    page.context.close()


def test_a_model_that_failed_and_a_token_are_told_on_the_page(chromium, start):
    one = start("broken", "g2p", token="a token of some length").opened()
    with opened(chromium, one.address) as page:
        page.page.on("dialog", lambda dialog: dialog.accept("a token of some length"))
        page.open(text=["python"])
        assert "broken could not be opened: broken/config.json is damaged" in page.text(".failed")
        assert page.text(".texts .answer").startswith("P AY1")


def test_hostile_text_is_text(page):
    page.open(text=['<img src=x onerror="alert(1)"> python', "python"], view="contexts")
    assert page.page.locator(".view img").count() == 0
    assert "<" in page.text(".words")
