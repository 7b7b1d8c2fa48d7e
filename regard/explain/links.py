"""Hard links from a matrix of weights, by several rules, and how far they are from links made by hand.

A rule takes weights (target words, source words) and gives links (source word, target word). Those of one direction:
`target`, each target word's best source word; `source`, each source word's best target word. Of both: `intersection`,
`union`, `grow-diag-final` (Koehn et al. 2003, "Statistical Phrase-Based Translation"), `itermax` (Jalili Sabet et al.
2020, "SimAlign", section 3.2), and `threshold`, all weights from a share of 0.15 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import unknown

Links = set[tuple[int, int]]
_THRESHOLD = 0.15
_ROUNDS, _FADED = 2, 0.9


def alignment_error_rate(
    found: Iterable[tuple[int, int]], sure: Iterable[tuple[int, int]], possible: Iterable[tuple[int, int]] | None = None
) -> float:
    """AER = 1 - (|A and S| + |A and P|) / (|A| + |S|) (Och & Ney 2003, equation 4); P holds S, and is S by default.

    0 is perfect. Of two empty sets it is 0.
    """
    links, certain = set(found), set(sure)
    allowed = certain | set(possible or ())
    size = len(links) + len(certain)
    return 1.0 - (len(links & certain) + len(links & allowed)) / size if size else 0.0


def links_by(rule: str, weights: Float[Tensor, "targets sources"]) -> Links:
    """The links that a rule finds; RegardError for an unknown rule."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    return RULES[rule](weights) if weights.numel() else set()


def _by_target(weights: Float[Tensor, "targets sources"]) -> Links:
    return {(source, target) for target, source in enumerate(weights.argmax(dim=1).tolist())}


def _by_source(weights: Float[Tensor, "targets sources"]) -> Links:
    return set(enumerate(weights.argmax(dim=0).tolist()))


def _intersection(weights: Float[Tensor, "targets sources"]) -> Links:
    return _by_target(weights) & _by_source(weights)


def _union(weights: Float[Tensor, "targets sources"]) -> Links:
    return _by_target(weights) | _by_source(weights)


def _threshold(weights: Float[Tensor, "targets sources"]) -> Links:
    return {(source, target) for target, source in (weights >= _THRESHOLD).nonzero().tolist()}


def _grow_diag_final(weights: Float[Tensor, "targets sources"]) -> Links:
    """From the intersection to neighbours in the union that link a word without one; then the rest of such links."""
    union, links = _union(weights), _intersection(weights)
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    grown = True
    while grown:
        grown = False
        for source, target in sorted(links):
            for a, b in steps:
                new = source + a, target + b
                if new in union - links and _frees(new, links):
                    links.add(new)
                    grown = True
    for link in sorted(_by_target(weights)) + sorted(_by_source(weights)):
        if link not in links and _frees(link, links):
            links.add(link)
    return links


def _frees(link: tuple[int, int], links: Links) -> bool:
    """Whether one of its words has no link yet."""
    return link[0] not in {source for source, _ in links} or link[1] not in {target for _, target in links}


def _itermax(weights: Float[Tensor, "targets sources"]) -> Links:
    """The intersection, again and again: words that both have links are left out, those with one are faded."""
    links: Links = set()
    for _ in range(_ROUNDS):
        sources, targets = ({pair[side] for pair in links} for side in (0, 1))
        factor = torch.ones_like(weights)
        for target in range(weights.shape[0]):
            for source in range(weights.shape[1]):
                linked = (source in sources) + (target in targets)
                factor[target, source] = (1.0, _FADED, 0.0)[linked]
        faded = weights * factor
        links |= {(source, target) for source, target in _intersection(faded) if faded[target, source] > 0}
    return links


RULES: dict[str, Callable[[Tensor], Links]] = {
    "target": _by_target,
    "source": _by_source,
    "intersection": _intersection,
    "union": _union,
    "grow-diag-final": _grow_diag_final,
    "itermax": _itermax,
    "threshold": _threshold,
}
