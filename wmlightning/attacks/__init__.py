"""What a thief does to a stolen model: one file per attack."""
