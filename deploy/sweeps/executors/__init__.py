"""Executors of sweeps, one module each: this machine (``local``) and a Ray cluster (``ray``)."""
