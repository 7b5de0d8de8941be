"""FuRL: vision-language rewards for robot RL, aligned, for a population of agents at once."""

__version__ = "0.1.0"
