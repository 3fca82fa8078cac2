"""The sources of labelled images: folders, CSV files, arrays and well-known data sets."""
