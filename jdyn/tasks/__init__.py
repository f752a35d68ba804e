"""What a dataset asks: loss, weights and scores."""
