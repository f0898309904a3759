"""Gives saved rollouts another reward."""
