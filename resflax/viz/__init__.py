"""Arrays in, figures out. Figures are made without pyplot, which keeps global state."""
