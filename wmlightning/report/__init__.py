"""A folder of runs as one page to look at: complete in itself, with nothing secret unless asked for."""
