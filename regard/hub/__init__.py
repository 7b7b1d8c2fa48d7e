"""Other people's formats, in and out: one module per family, plain functions."""
