"""The best deployment of a model: candidates are made, proven, timed and eliminated."""
