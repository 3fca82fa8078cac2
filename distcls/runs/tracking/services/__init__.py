"""Services for curves and models, one file for each: how to talk to its library, but not when."""
