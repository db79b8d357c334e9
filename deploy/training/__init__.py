"""Train and fine-tune image classifiers."""
