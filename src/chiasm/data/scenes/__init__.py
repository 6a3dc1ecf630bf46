"""The built-in world: rendered scenes of which everything is known. `sources/scenes.py` makes samples of them."""
