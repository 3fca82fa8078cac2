"""The commands of `distcls`: each parses its arguments, then imports the engine."""
