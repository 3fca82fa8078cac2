"""The sources of labeled images: folders, CSV files, arrays and well-known data sets."""
