"""What a server takes: one file here for each kind, whose ``write`` fills a folder."""
