"""From a histogram to the range that eight bits shall cover, one statistic a file: ``choose(histogram, grid)``."""
