"""A newcomer's first hour, recorded: 61 commands and mistakes, each with what the terminal must say."""
