"""A stand-in for SageMaker's multi-turn RL jobs on this machine. Jobs really run."""
