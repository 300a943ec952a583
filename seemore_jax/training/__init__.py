"""Training: loss, optimizer, the sharded step, and the loop around it."""
