"""The page: well-formed, needs nothing from outside, escapes what users write, and shows the walkthrough's numbers."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from regard.explain.render.page import page
from regard.modalities.text import train_bpe
from regard.models.transformer import Transformer, TransformerConfig
from regard.pipelines.explanation import Explanation
from regard.pipelines.text_to_text import TextToText

HOSTILE = '<script>alert(1)</script> & "x" python'
VOID = {"meta", "input", "br", "link", "img", "hr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def explanation(request) -> Explanation:
    codec = train_bpe(["python executes quickly", "python crawls quickly", "the snake crawls"] * 3, 300)
    config = TransformerConfig(
        vocab_size=codec.source.vocab_size,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        attention_heads=3,
        ffn_dim=80,
        normalize_before=request.param,
        max_position_embeddings=64,
    )
    torch.manual_seed(3)
    model = TextToText("tiny & new", Transformer(config).eval(), codec)
    return model.explain(HOSTILE, "python crawls quickly", "Python", query="python")


@pytest.fixture(scope="module")
def written(explanation) -> str:
    return render(explanation)


def render(one: Explanation) -> str:
    return page(one.model, one.texts, one.answers, one.results)


def test_every_tag_is_closed_and_ids_are_unique(written):
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open: list[str] = []
            self.ids: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.ids += [value for name, value in attrs if name == "id"]
            assert len({name for name, _ in attrs}) == len(attrs)
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(written)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)


def test_nothing_is_loaded_from_outside(written):
    assert not re.search(r"https?:|//\w|url\(|@import|<link|<img|<iframe|\bsrc=", written)
    assert "default-src 'none'" in written


def test_what_users_write_is_escaped_in_text_and_in_data(written):
    assert "<script>alert" not in written
    assert written.count("<script") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;x&quot; python" in written
    assert "tiny &amp; new" in written
    assert "script" in "".join(word["text"] for word in embedded(written)["words"])


def embedded(written: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', written, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_data_are_the_walkthroughs(explanation, written):
    data, expected = embedded(written), explanation.walkthrough.to_dict()
    for name in ("scores", "scaled_scores", "weights"):
        torch.testing.assert_close(torch.tensor(data[name]), torch.tensor(expected[name]), rtol=1e-5, atol=1e-6)
    for name in ("steps", "embedding"):
        assert data[name]
        for value, numbers in data[name].items():
            torch.testing.assert_close(
                torch.tensor(numbers, dtype=torch.float), torch.tensor(expected[name][value]), rtol=1e-3, atol=1e-6
            )
    assert data["words"] == expected["words"]
    assert data["head"] == expected["head"]


def test_what_follows_from_them_adds_up(explanation, written):
    data, walk = embedded(written), explanation.walkthrough
    close = {"rtol": 1e-3, "atol": 2e-3}
    torch.testing.assert_close(torch.tensor(data["products"]).sum(dim=-1), walk.scores, **close)
    mixed = walk.steps["self_attention.mixed"][:, 0]
    torch.testing.assert_close(torch.tensor(data["weighted_values"]).sum(dim=1), mixed, **close)
    shares = torch.tensor(data["exponentials"]) / torch.tensor(data["sums"])[:, None]
    torch.testing.assert_close(shares, walk.weights, **close)
    assert sum(data["share_parts"]) + data["bias_part"] == pytest.approx(100, abs=1e-2)
    torch.testing.assert_close(torch.tensor(data["entering"]), walk.embedding["output"][0], **close)


def test_every_number_shown_is_the_one_in_the_data(written):
    data = embedded(written)
    slots = re.findall(r'data-number="([^"]+)" data-digits="(\d)">([^<]+)<', written)
    assert len(slots) > 50
    for path, digits, shown in slots:
        assert float(shown.replace("−", "-")) == pytest.approx(at(data, path), abs=0.51 * 10 ** -int(digits))  # noqa: RUF001
    strips = re.findall(r'aria-label="[^"]*, (\d+) values" data-strip="([^"]+)"', written)
    assert len(strips) > 20
    assert all(len(at(data, path)) == int(length) for length, path in strips)


def at(data: dict, path: str):
    found = data
    for name in path.split("/"):
        found = found[data["head"] if name == "#" else int(name) if isinstance(found, list) else name]
    return found


def test_notes_equation_and_links_are_there(explanation, written):
    plain = re.sub("<[^>]+>", "", written).replace("&nbsp;", " ")
    assert "e(python) = " in plain
    assert all(one.pharaoh() in plain for one in explanation.alignments)
    assert f"{explanation.walkthrough.difference:.1e}" in plain


def test_one_text_has_no_comparison_and_the_page_is_small(explanation):
    alone = Explanation("m", ["a"], ["b"], explanation.walkthrough, None, explanation.alignments[:1])
    assert "layer by layer" not in render(alone)
    assert len(render(alone)) < 400_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_another_head_without_errors(explanation, written, tmp_path):
    (tmp_path / "page.html").write_text(written, encoding="utf-8")
    other = (explanation.walkthrough.head + 1) % explanation.walkthrough.heads
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    command += ["--dump-dom", (tmp_path / "page.html").as_uri() + f"#head={other}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in ran.stderr
    data = embedded(ran.stdout)
    data["head"] = other
    slots = re.findall(r'data-number="([^"]+)" data-digits="(\d)">([^<]+)<', ran.stdout)
    assert len(slots) > 50
    for path, digits, shown in slots:
        assert float(shown.replace("−", "-")) == pytest.approx(at(data, path), abs=0.51 * 10 ** -int(digits))  # noqa: RUF001
    assert set(re.findall(r"data-head=\"\">(\d+)<", ran.stdout)) == {str(other)}
    assert data["filled"][other]["scale"].split(" = ")[-1] in ran.stdout
    before = dict(re.findall(r'data-strip="(steps/[^"]+#[^"]*)".*?>(.*?)</svg>', written))
    after = dict(re.findall(r'data-strip="(steps/[^"]+#[^"]*)".*?>(.*?)</svg>', ran.stdout))
    assert before
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before)
