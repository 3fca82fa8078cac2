"""The processes of a run: how they start, agree, stop, and notice that one is gone."""
