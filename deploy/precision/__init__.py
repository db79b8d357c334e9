"""Half precision that holds: which nodes of a graph must stay in float32, and why."""
