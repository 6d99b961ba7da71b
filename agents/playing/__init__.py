"""Episodes: playing them, and measuring how they ended."""
