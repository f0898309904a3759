"""What to do about each kind of alarm, and who says so. `aws_rft_sdk.jobs.alarms` finds them."""

from __future__ import annotations

_OURS = "this package"
_WALKTHROUGH = "AWS, Reinforcement fine-tuning on Amazon Bedrock with OpenAI-compatible APIs"
ADVICE = {
    "reward_flat": (
        "If the reward is near 0, choose easier prompts or fine-tune on examples first. Otherwise raise the learning "
        "rate or the group size, and check that rewards differ within groups. Change one thing at a time.",
        f"AWS, Best practices for multi-turn RL: failures show by about step 30; limits by {_OURS}",
    ),
    "reward_falling": (
        "Stop the job, go back to the best checkpoint, and lower the learning rate.",
        f"{_WALKTHROUGH}: the reward must rise; limits by {_OURS}",
    ),
    "reward_saturated": (
        "The model can do the task already. Stop the job, and choose harder prompts or a stricter reward.",
        "AWS, Amazon Nova guidance: above 95 % training is probably pointless",
    ),
    "entropy_collapse": (
        "The policy hardly explores any more. Go back to a checkpoint before the fall, and lower the learning rate or "
        "raise the temperature.",
        f"{_WALKTHROUGH}: entropy towards 0 is collapse; limits by {_OURS}",
    ),
    "gradient_spike": (
        "Look at the rollouts of this step for extreme rewards or lengths. If spikes come again, lower the learning "
        "rate or clip gradients at 0.5.",
        f"{_WALKTHROUGH}: spikes mean instability; SageMaker, hyperparameters: clip at 0.5; limits by {_OURS}",
    ),
    "length_growth": (
        "Read some of the longest responses. If they are padded, add a length penalty or a stricter reward.",
        f"{_WALKTHROUGH}: growing length may be length hacking; limits by {_OURS}",
    ),
    "dead_groups": (
        "All rollouts of most groups get the same reward, so nothing is learnt from them. Remove prompts that are "
        "always or never solved, give partial credit, or raise the group size.",
        f"DAPO: groups of equal rewards have no gradient; limits by {_OURS}",
    ),
    "truncation": (
        "Responses are cut off before they end. Raise the token limit, or ask for shorter responses.",
        "AWS, Best practices for multi-turn RL: fewer than 5 % may reach the token limit",
    ),
    "overfitting": (
        "Use the checkpoint with the best validation reward. Train for fewer epochs, or on more prompts.",
        _OURS,
    ),
    "missing_steps": (
        "Fetch the events again. If the gap stays, figures and alarms say less about these steps.",
        _OURS,
    ),
}
"""Advice and source by the kind of alarm."""
