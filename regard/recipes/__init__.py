"""Recipes that come with the package: `regard train NAME`."""
