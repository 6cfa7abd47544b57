"""Training: losses, optimizer, schedule, and the `Trainer` that puts them to work."""
