"""From sources (files, hub data sets, packages) to examples to ragged, length-grouped, resumable batches."""
