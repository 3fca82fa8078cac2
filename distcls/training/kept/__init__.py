"""Keeps what the report of a finished run needs: pictures, and the description of its model."""
