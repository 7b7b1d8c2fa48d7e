"""The walkthrough as sections of the page, one for each step, in the order in which the layer computes.

Vaswani et al. 2017, sections 3.1 to 3.3; the numbers are those of `regard.explain.walkthrough`, under the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from regard.explain.render.page_numbers import IN_DETAIL, detailed, signed
from regard.explain.render.page_parts import Slots, chip, fixed, step, table, word_label
from regard.explain.walkthrough import Walkthrough


def sections(slots: Slots, walk: Walkthrough, text: str) -> str:
    """The walkthrough of one word of `text`, from the embedding to the proof."""
    asking = walk.word
    side, _, layer = walk.place.split(".")
    rules = []
    if any(len(word.pieces) > 1 for word in walk.words):
        cut = ", ".join(escape("·".join(word.pieces)) for word in walk.words if len(word.pieces) > 1)
        rules.append(f"Cut in pieces here: {cut}. A word's weight is the sum of its pieces' weights, and so is what it")
        rules.append(
            "hands on; its score is the logarithm of the sum of its pieces' exponentials, so that softmax over"
        )
        rules.append("words gives just those weights.")
    if len(detailed(walk)) < len(walk.words):
        rules.append(f"Vectors are drawn of the {IN_DETAIL} words with the largest weights; the tables have all.")
    if len(asking.pieces) > 1:
        rules.append(f"The query is the word's first piece, <q>{escape(asking.pieces[0])}</q>.")
    radios = "".join(
        f'<label><input type="radio" name="head" value="{head}" id="head-{head}"{" checked" * (head == walk.head)}>'
        f"<span>{head}</span></label>"
        for head in range(walk.heads)
    )
    close = walk.difference < 1e-4
    steps = [
        _embedding(slots, walk),
        _projections(slots, walk),
        _scores(slots, walk),
        _scaled(slots, walk),
        _softmax(slots, walk),
        _mixed(slots, walk),
        _heads(slots, walk),
        _concatenation(slots, walk),
        _add_and_norm(slots, walk, 9, "attention", walk.attention),
        _feed_forward(slots, walk),
        _add_and_norm(slots, walk, 11, "FFN", "feed_forward"),
    ]
    return f"""<section><h2>The complete process for one query: {_asking(walk)}</h2>
<p class="lead">In <q><bdi>{escape(text)}</bdi></q>, {side} layer {layer}{walk.looking}, head {slots.head_name()} in
detail (layers and heads count from 0). {" ".join(rules)}</p>
<fieldset class="heads scripted"><legend>Head</legend>{radios}</fieldset>
{"".join(steps)}
<p class="proof {"holds" if close else "fails"}"><b>{"✓" if close else "✗"} The proof.</b>
This walk went step by step; the model itself computes the same layer in one fused, fast run. Largest difference
between the two results: <b>{walk.difference:.1e}</b>.</p></section>"""


def _asking(walk: Walkthrough) -> str:
    """The word that asks; among the keys it lights up with them."""
    return f"<bdi>{escape(walk.word.text)}</bdi>" if walk.query is None else word_label(walk.words, walk.query)


def _embedding(slots: Slots, walk: Walkthrough) -> str:
    name, width = escape(walk.asking), len(slots.at("entering"))
    layer = int(walk.place.rpartition(".")[2])
    rows = [(label, f"embedding/{key}") for label, key in walk.embedding_rows]
    before, after = walk.embedding_formula
    segment = "segments" in walk.embedding
    told = {
        "sinusoids": "a pattern of sines and cosines that says where in the text it stands: PE(pos, 2i) = sin(pos / "
        "10000<sup>2i/D</sup>), PE(pos, 2i+1) = cos(pos / 10000<sup>2i/D</sup>).",
        "learned": "a learned vector for its place in the text" + (", and one for its segment." if segment else "."),
        "rotary": "nothing else: places come in with the attention, which turns queries and keys by them.",
        "relative": "nothing else: places come in with the attention, which adds a number for each distance.",
        "none": "nothing else: places come in with the attention.",
    }
    summed = [row for row in rows if row[0] != "norm"]
    figures = [slots.strips(summed)]
    if len(summed) < len(rows):
        figures.append(slots.strips(rows[-1:]))  # apart: the norm is on another scale than the sum
    if layer or walk.attention == "cross_attention":
        figures.append(f"<p>The layers below ({layer} of them) have worked on it since. What enters{walk.entered}:</p>")
        figures.append(slots.strips([("x", "entering")]))
    if walk.norm_first:
        figures.append(f"<p>This model norms before each part: the next steps read {walk.read}.</p>")
        figures.append(slots.strips([(walk.read, f"steps/{walk.attention}_residual.entered/0")]))
    return step(
        1,
        "Embedding plus position" if walk.positions in ("sinusoids", "learned") else "Embedding",
        f"{before}{name}{after}",
        _first_values(slots, [path for _, path in summed]),
        f"The row of the embedding matrix for this token, {width} numbers, and {told[walk.positions]}",
        *figures,
    )


def _projections(slots: Slots, walk: Walkthrough) -> str:
    read, biased, turned = walk.read, walk.biases["projection"], walk.positions == "rotary"
    lines = [
        f"{letter.lower()} = {'turned(' * (turned and letter != 'V')}{read}·W<sub>{letter}</sub>"
        f"{f' + b<sub>{letter}</sub>' * biased}{')' * (turned and letter != 'V')}"
        for letter in "QKV"
    ]
    told = " Queries and keys are turned by their positions, so that q·k knows how far apart two words are." * turned
    query = [(f"q({_asking(walk)})", f"steps/{walk.attention}.queries/#/0")]
    each = {
        name: [(f"{name[0]}({label})", f"steps/{walk.attention}.{name}/#/{slot}") for label, slot, _ in _pieces(walk)]
        for name in ("keys", "values")
    }
    return step(
        2,
        "Query, keys, values",
        "<br>".join(lines),
        "",
        f"Head {slots.head_name()} has its own learnt maps to {walk.head_width} numbers: the query is what this word "
        f"asks for, a key is what each word can be found by, a value is what it hands on.{told}",
        *(slots.strips(rows, heading) for rows, heading in ((query, "Query"), (each["keys"], "Keys"))),
        slots.strips(each["values"], "Values"),
    )


def _scores(slots: Slots, walk: Walkthrough) -> str:
    rows = [
        (f"q&times;k({label})", f"products/#/{slot}", slots.number(f"scores/#/{place}"))
        for label, slot, place in _pieces(walk)
    ]
    return step(
        3,
        "Dot product with every key",
        "score = q·k = Σ q<sub>i</sub> k<sub>i</sub>",
        slots.text("filled/#/dot"),
        "Multiplied number by number, then summed: blue cells speak for the word, orange ones against it. "
        "This is how the model finds how words relate.",
        slots.strips(rows),
    )


def _scaled(slots: Slots, walk: Walkthrough) -> str:
    chips = (
        chip(word_label(walk.words, number), slots.number(f"scaled_scores/#/{number}"))
        for number in range(len(walk.words))
    )
    told = (
        f"Sums of {walk.head_width} products grow with √{walk.head_width}; without this, softmax would often put all "
    )
    told += "on one word."
    if walk.positions == "relative":
        told = "r is a number that this head has learned for how far the key is from the query. This model does not "
        told += "scale: it began from weights small enough."
    return step(
        4,
        "Distance" if walk.positions == "relative" else "Scale",
        f"s = {walk.score()}",
        slots.text("filled/#/scale"),
        told,
        f'<ul class="chips" aria-label="scaled scores">{"".join(chips)}</ul>',
    )


def _softmax(slots: Slots, walk: Walkthrough) -> str:
    rows = [
        [
            word_label(walk.words, number),
            slots.number(f"exponentials/#/{number}", 3),
            slots.number(f"weights/#/{number}", 3),
            slots.bar(f"weights/#/{number}"),
        ]
        for number in range(len(walk.words))
    ]
    rows.append(["sum", slots.number("sums/#", 3), slots.number("weight_sums/#", 3), ""])
    return step(
        5,
        "Softmax",
        f"weights = softmax({walk.score()}) = e<sup>s&minus;max</sup> / Σ e<sup>s&minus;max</sup>",
        slots.text("filled/#/softmax"),
        "Scores become shares: all positive, one in sum. (Taking the largest score off first changes no share and "
        "keeps the exponentials small.)",
        table(["word", "e<sup>s&minus;max</sup>", "weight", ""], rows, "Softmax over the words", "softmax"),
    )


def _mixed(slots: Slots, walk: Walkthrough) -> str:
    rows = [
        (f"{slots.number(f'weights/#/{number}')} · v({word_label(walk.words, number)})", f"weighted_values/#/{slot}")
        for slot, number in enumerate(detailed(walk))
    ]
    scale = slots.scale([f"steps/{walk.attention}.values/#/{slot}" for _, slot, _ in _pieces(walk)])
    return step(
        6,
        "Weighted sum of the values",
        "mixed = Σ weight · v",
        slots.text("filled/#/mixed"),
        "Each value, faded by its weight (same colour scale as the values above). Their sum is what this head found.",
        slots.strips([*rows, ("<b>mixed</b>", f"steps/{walk.attention}.mixed/#/0")], scale=scale),
    )


def _heads(slots: Slots, walk: Walkthrough) -> str:
    words = range(len(walk.words))
    rows = [
        [
            f'<label for="head-{head}">head {head}</label>',
            *(slots.cell(f"weights/{head}/{word}") for word in words),
        ]
        for head in range(walk.heads)
    ]
    rows.append(["mean", *(slots.cell(f"mean_weights/{word}") for word in words)])
    return step(
        7,
        f"All {walk.heads} heads side by side",
        f"weights<sub>h</sub> = softmax({walk.score('q<sub>h</sub>·k<sub>h</sub>')})",
        "",
        "The same word asks in every head, each with its own query, keys and values: heads look for different things.",
        table(["", *(word_label(walk.words, word) for word in words)], rows, "Weights of each head", "heat heads-map"),
    )


def _concatenation(slots: Slots, walk: Walkthrough) -> str:
    scale = slots.scale([f"steps/{walk.attention}.mixed/#/0"])
    rows = [
        [
            f'<label for="head-{head}">head {head}</label>',
            slots.strip(f"steps/{walk.attention}.mixed/{head}/0", f"mixed values of head {head}", scale),
            slots.number(f"share_lengths/{head}"),
            f"{slots.number(f'share_parts/{head}', 0)} %",
        ]
        for head in range(walk.heads)
    ]
    if walk.biases["output"]:
        rows.append(["bias", "", "", f"{slots.number('bias_part', 0)} %"])
    bias = " + b<sub>O</sub>" * walk.biases["output"]
    shares = [
        (f"share of head {slots.head_name()}", f"steps/{walk.attention}.heads/#/0"),
        ("<b>attention</b>", f"steps/{walk.attention}.output/0"),
    ]
    return step(
        8,
        "Concatenate and project",
        f"attention = [mixed<sub>0</sub> … mixed<sub>{walk.heads - 1}</sub>]·W<sub>O</sub>{bias}",
        "",
        "The heads' results end to end, then one more linear map: a sum in which each head has a share. Length: how "
        "much it adds; part: how much of the result's own direction comes from it (below zero: it works against it).",
        table(["", "mixed", "length", "part"], rows, "Each head's share of the output", "concatenation heads-map"),
        slots.strips(shares),
    )


def _add_and_norm(slots: Slots, walk: Walkthrough, number: int, what: str, part: str) -> str:
    before = "entering" if part == walk.attention else f"steps/{walk.before_feed_forward}.output/0"
    added, output = f"steps/{part}_residual.added/0", f"steps/{part}_residual.output/0"
    rows = [("x", before), (what, f"steps/{part}.output/0"), (f"x + {what}", added)]
    filled = _first_values(slots, [path for _, path in rows])
    if walk.norm_first:
        figures = [slots.strips(rows)]
        if part == walk.attention:
            figures.append("<p>The next step reads its norm:</p>")
            figures.append(slots.strips([(walk.read, "steps/feed_forward_residual.entered/0")]))
        note = "What was found is added to what was there. In this model the norm comes before each part instead."
        return step(number, "Add", f"x ← x + {what}", filled, note, *figures)
    total = walk.steps[f"{part}_residual.added"][0]
    filled += f"; mean {fixed(float(total.mean()))}, deviation {fixed(float(total.std(correction=0)))}"
    note = "What was found is added to what was there; the norm brings the sum back to mean 0 and deviation 1, then a "
    note += "learnt factor and offset for each value."
    figure = slots.strips([*rows, ("<b>norm</b>", output)])
    return step(number, "Add and norm", f"x ← {walk.norm}(x + {what})", filled, note, figure)


def _feed_forward(slots: Slots, walk: Walkthrough) -> str:
    inner, activated = walk.steps["feed_forward.inner"][0], walk.steps["feed_forward.activated"][0]
    rectified = bool((activated == inner.clamp_min(0)).all())
    read, bias = walk.read, walk.biases["feed_forward"]
    hidden = f"{read} {'W<sub>g</sub>' if walk.gated else 'W<sub>1</sub>' + ' + b<sub>1</sub>' * bias}"
    rectified = rectified and not walk.gated
    passed = f"max(0, {hidden})" if rectified else f"{walk.activation.removesuffix('_new')}({hidden})"
    passed = f"({passed} ⊙ {read} W<sub>1</sub>)" if walk.gated else passed
    formula = f"FFN(x) = {passed} W<sub>2</sub>{' + b<sub>2</sub>' * bias}"
    active = int((activated > 0).sum())
    return step(
        10,
        "Feed-forward",
        formula,
        f"{active} of {len(activated)} inner values are above zero",
        "The same two-layer network for every position: this is the non-linear step. Of the inner values only those "
        f"that are {'above zero' if rectified else 'not pressed to zero'} go on.",
        slots.strips([("inner, before", "steps/feed_forward.inner/0"), ("after", "steps/feed_forward.activated/0")]),
        slots.strips([("<b>FFN</b>", "steps/feed_forward.output/0")]),
    )


def _pieces(walk: Walkthrough) -> list[tuple[str, int, int]]:
    """Label of each token that is drawn, its slot among them, its place in the text; pieces of a word are named."""
    found = [
        (word_label(walk.words, number, piece=piece if len(walk.words[number].pieces) > 1 else None), place)
        for number in detailed(walk)
        for piece, place in zip(walk.words[number].pieces, walk.words[number].places, strict=True)
    ]
    return [(label, slot, place) for slot, (label, place) in enumerate(found)]


def _first_values(slots: Slots, paths: Sequence[str]) -> str:
    """The sum of vectors, the last of the paths, written out for their first value; "" where nothing is added."""
    *parts, total = (slots.at(f"{path}/0") for path in paths)
    if not parts:
        return ""
    return f"first value: {' + '.join([fixed(parts[0]), *map(signed, parts[1:])])} = {fixed(total)}"
