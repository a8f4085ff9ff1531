"""What runs leave behind: cards, weights, and the summary people read."""
