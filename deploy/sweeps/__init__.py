"""The matrix of models, precisions, backends, batches and machines: its file, tasks, order, engines."""
