"""Images and labels: bundled data sets, folders and arrays, turned into batches."""
