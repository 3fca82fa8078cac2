"""The start of a run: what it settles, checks and shows before its first step, and the dry run, which stops there."""
