"""Suspects: classifiers that may only be asked for predictions. One file each; ``base`` has the contract."""
