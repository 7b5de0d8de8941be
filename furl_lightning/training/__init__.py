"""Lightning around the learner: module, evaluation, checkpoints, logging, pictures."""
