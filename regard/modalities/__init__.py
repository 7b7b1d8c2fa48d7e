"""Ways in and out: how text becomes token ids, and ids text."""
