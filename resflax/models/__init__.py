"""Networks composed of the parts in `resflax.nn`. `zoo` is the table of names."""
