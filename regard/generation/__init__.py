"""From a model's scores to answers. Knows three methods of a model: `start`, `step`, and `state.select`.

Drafts also need `extend` and `state.cut`, contrastive search `advance` and `logits`; others are refused by name.
"""
