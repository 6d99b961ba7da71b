"""Tables, statistics and plots of finished runs."""
