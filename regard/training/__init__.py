"""Recipe in, model folder out: the loop, objectives, schedules, checkpoints and scores."""
