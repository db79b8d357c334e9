"""Package targets: one module each, which defines ``TARGET`` (see `deploy.packaging.target.PackageTarget`)."""
