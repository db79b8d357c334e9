"""An HTTP server for exported models: the Open Inference Protocol, dynamic batching, and a demo page."""
