"""Answering requests over HTTP: the Open Inference Protocol, batches made of requests, and a page to try it."""
