"""What a finished run keeps for its report: pictures, and the description of its model."""
