"""The commands doctor, inspect, sign and verify."""
