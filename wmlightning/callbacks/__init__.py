"""Callbacks: accuracies kept apart, the trigger gallery, the progress bar."""
