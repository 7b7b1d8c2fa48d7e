"""The systems, one file each, in the order of their papers; `base` is what they share."""
