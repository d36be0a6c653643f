"""What several strategies share: clustering, greedy picking, temperature scaling."""
