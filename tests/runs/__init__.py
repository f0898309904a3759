"""Tests of looking at runs."""
