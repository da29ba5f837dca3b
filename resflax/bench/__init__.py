"""Timings: the measuring, what is measured, and the peers it is measured against.

Nothing here sees `resflax.build`: what needs a whole configuration, our own training step, is made by the entry point
`resflax.benchmark` and handed down as a contender like any other.
"""
