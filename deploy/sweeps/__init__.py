"""Sweeps: export, quantize, build, evaluate and time a matrix of models and configurations, on one or many machines."""
