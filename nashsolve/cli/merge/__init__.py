"""`nashsolve merge`: checkpoints in, a checkpoint out."""
