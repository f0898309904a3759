"""Feedback about a trajectory: the decision, the sending, and the outbox that keeps it until the runtime confirms."""
