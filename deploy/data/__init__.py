"""Images and labels: bundled data sets, image folders and array files, prepared as input batches."""
