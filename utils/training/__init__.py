"""Training: losses, optimizer and schedule, and the `Trainer` that is handed model, data and evaluator."""
