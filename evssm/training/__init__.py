"""Training: recipes as data, one loop, checkpoints from which a run goes on as if it had never stopped."""
