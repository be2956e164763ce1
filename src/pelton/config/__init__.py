"""From a YAML file and the environment to declarations: every check that can name a line is here.

Nothing here connects, resolves a name or asks a broker; that is `pelton.bridge.check`.
"""
