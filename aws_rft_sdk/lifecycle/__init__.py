"""The life of one rollout: what is decided and reported, how its handler runs, and how a process with rollouts ends."""
