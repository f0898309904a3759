"""A policy that learns on the same wire as in a training job."""
