"""One file a verb: the only places that know an order of steps."""
