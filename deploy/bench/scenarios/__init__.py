"""How requests arrive, one file per scenario. Without a scenario, calls follow one another and each is timed."""
