"""RL algorithms, one file each: the advantage, and the settings that make TRL compute the loss."""
