"""From a model's scores to answers. Knows three methods of a model: `start`, `step`, and `state.select`."""
