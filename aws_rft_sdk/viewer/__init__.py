"""Pages over finished and running rollouts, and the report that is attached to a pull request."""
