"""Explanations made visible: as terminal text and as one HTML page."""
