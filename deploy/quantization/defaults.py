"""What is chosen where the user does not say; apart, since a build in float32 imports nothing that calibrates."""

METHOD = "mse"
SAMPLES = 128
