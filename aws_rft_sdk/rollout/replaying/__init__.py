"""Runs recorded rollouts again without a model, and shows where they differ."""
