"""Output for people: the progress of a run, tables, and the screens they are drawn on."""
