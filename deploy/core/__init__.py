"""Shared types and infrastructure, without heavy imports."""
