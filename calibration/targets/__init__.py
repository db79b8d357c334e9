"""Where Q/DQ goes for each target, one a file: ``RULES``, and the graph passes before and after."""
