"""INT8 targets, one module each: ``TARGET`` declares the target and holds the function that quantizes for it."""
