"""The exact additive split: which part of the model put what into an output vector.

Every layer adds to the residual stream; a norm only rescales what is there. With the scale it had in this run a norm is
a linear map, so an output vector is the sum of what the embedding, each head, each feed-forward network and each bias
put into it, carried through the norms that came after (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"; for norms after each layer, Kobayashi et al. 2021, "Incorporating Residual and Normalization Layers into
Analysis of Masked Language Models", section 3). Nothing is left out: the parts add up to the vector.

The same maps give what each token adds to a token (`transformed`), from which contributions are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explain.trace import Trace, check_range
from regard.layers.blocks import DecoderLayer, EncoderLayer, PreNorm


@dataclass(frozen=True)
class Split:
    """One output vector as a sum of named parts."""

    names: list[str]
    """`embedding`, `0.self_attention.3` (layer, part, head), `0.self_attention.bias`, `0.feed_forward`, `norms`."""
    parts: Float[Tensor, "parts width"]
    whole: Float[Tensor, "width"]
    """What the fast run had; the parts add up to it."""

    @property
    def difference(self) -> float:
        """Largest difference between the sum of the parts and the fast run."""
        return float((self.parts.sum(dim=0) - self.whole).abs().max())


@torch.no_grad()
def split(trace: Trace, position: int, row: int = 0, upto: int | None = None) -> Split:
    """The vector of one token after its stack (of translators the decoder's), through the last norm, as a sum.

    `upto`: after so many layers instead, without the last norm. Raises RegardError for recurrent models and positions
    out of range.
    """
    side = trace.layers[-1].split(".")[0]
    places = trace.stack("decoder" if side == "decoder" else "encoder")
    check_layers(trace, places)
    check_range("token", position, len(trace.entering(places[0], row)))
    if upto is not None:
        check_range("layer", upto, len(places) + 1)
    here = slice(position, position + 1)
    names, parts = ["embedding"], trace.entering(places[0], row)[here]
    for number, place in enumerate(places[:upto]):
        layer, steps = trace.model.get_submodule(place), trace.steps(place, here, row)
        for sublayer in sublayers(layer):
            added_names, added = _added(layer, sublayer, steps, number)
            names, parts = names + added_names, torch.cat([parts, added])
            residual = getattr(layer, f"{sublayer}_residual")
            if not isinstance(residual, PreNorm):
                names, parts = _through(residual.norm, names, parts, steps[f"{sublayer}_residual.added"])
    if upto is not None:
        return Split(names, parts, trace.hidden(upto, row, "decoder" if side == "decoder" else None)[position])
    stack = trace.model.get_submodule(places[0].split(".")[0])
    norm = getattr(stack, "norm", None)
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        names, parts = _through(norm, names, parts, trace.leaving(places[-1], row)[here])
    return Split(names, parts, trace.output[row][position])


def sublayers(layer: Any) -> list[str]:
    """The parts of a layer that add to the stream, in order."""
    return ["self_attention", *(["cross_attention"] if isinstance(layer, DecoderLayer) else []), "feed_forward"]


def check_layers(trace: Trace, places: list[str]) -> None:
    """RegardError unless these are layers of attention."""
    if not isinstance(trace.model.get_submodule(places[0]), EncoderLayer | DecoderLayer):
        kind = trace.model.config.model_type
        raise RegardError(f"a {kind} has no layers of multi-head attention to split: Transformers, BERT, GPT, Llama do")


def rescaled(
    norm: nn.Module, parts: Float[Tensor, "*parts width"], reference: Float[Tensor, "*#parts width"]
) -> Float[Tensor, "*parts width"]:
    """Parts of a vector through its norm, with the scale that the norm of the whole (`reference`) has. No bias."""
    if isinstance(norm, nn.LayerNorm):
        centred = parts - parts.mean(dim=-1, keepdim=True)
        scale = (reference.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        return centred * scale * norm.weight
    assert isinstance(norm, nn.RMSNorm)
    eps = torch.finfo(reference.dtype).eps if norm.eps is None else norm.eps
    return parts * (reference.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * norm.weight


def _through(
    norm: Any, names: list[str], parts: Float[Tensor, "parts width"], reference: Float[Tensor, "1 width"]
) -> tuple[list[str], Float[Tensor, "more width"]]:
    """All parts through a norm; what its bias adds is counted with the other norms'."""
    carried = rescaled(norm, parts, reference)
    bias = getattr(norm, "bias", None)
    if bias is None:
        return names, carried
    if "norms" not in names:
        return [*names, "norms"], torch.cat([carried, bias[None]])
    carried[names.index("norms")] += bias
    return names, carried


def _added(layer: Any, sublayer: str, steps: dict[str, Tensor], number: int) -> tuple[list[str], Tensor]:
    """What one sublayer puts into the stream: each head, the bias of its output; or the feed-forward network."""
    if sublayer == "feed_forward":
        return [f"{number}.feed_forward"], steps["feed_forward.output"]
    heads = steps[f"{sublayer}.heads"][:, 0]
    names = [f"{number}.{sublayer}.{head}" for head in range(len(heads))]
    bias = getattr(layer, sublayer).output.bias
    return (names, heads) if bias is None else ([*names, f"{number}.{sublayer}.bias"], torch.cat([heads, bias[None]]))


@torch.no_grad()
def split_by_token(trace: Trace, position: int, row: int = 0) -> Split:
    """The vector of one token after the stack that reads the source, before a last norm, as a sum over tokens.

    Parts: `embedding`, its own; each token of the text, by number, what attention took from it in all layers; `feed
    forward`; `biases`, those of the norms too.
    """
    places = trace.stack()
    check_layers(trace, places)
    length = len(trace.entering(places[0], row))
    check_range("token", position, length)
    here = slice(position, position + 1)
    x = trace.entering(places[0], row)
    parts = torch.cat([x[here], x.new_zeros(length + 2, x.shape[1])])
    for place in places:
        layer, steps = trace.model.get_submodule(place), trace.steps(place, here, row)
        tokens, attended = transformed(trace, f"{place}.self_attention", here, row)
        parts[1:-2] += tokens[0]
        parts[-1] += (attended - tokens.sum(dim=1))[0]
        parts = _carried(layer.self_attention_residual, parts, steps["self_attention_residual.added"])
        parts[-2] += steps["feed_forward.output"][0]
        parts = _carried(layer.feed_forward_residual, parts, steps["feed_forward_residual.added"])
    names = ["embedding", *(str(token) for token in range(length)), "feed forward", "biases"]
    return Split(names, parts, trace.leaving(places[-1], row)[position])


def _carried(residual: Any, parts: Float[Tensor, "parts width"], added: Float[Tensor, "1 width"]) -> Tensor:
    """All parts through the norm that follows a sublayer, if one does; the last part takes its bias."""
    if isinstance(residual, PreNorm):
        return parts
    carried = rescaled(residual.norm, parts, added)
    carried[-1] += getattr(residual.norm, "bias", 0.0)
    return carried


@torch.no_grad()
def transformed(
    trace: Trace, place: str, queries: slice, row: int = 0
) -> tuple[Float[Tensor, "queries keys width"], Float[Tensor, "queries width"]]:
    """What each key puts into the residual stream of each query, all heads together, and the attention's whole output.

    Kobayashi et al. 2020, equation 4: the sum over heads of weight x (value W_O). `place` is an attention. What the
    output's bias adds is part of the whole only.
    """
    layer_place, _, name = place.rpartition(".")
    steps = trace.steps(layer_place, queries, row)
    attention: Any = getattr(trace.model.get_submodule(layer_place), name)
    values = steps[f"{name}.values"] @ attention.split(attention.output.weight).transpose(-2, -1)
    return torch.einsum("hqk,hkd->qkd", steps[f"{name}.weights"], values), steps[f"{name}.output"]
