"""Where labelled images come from: folders, CSV files, arrays, known data sets."""
