"""Results for people: terminal, pages, tables."""
