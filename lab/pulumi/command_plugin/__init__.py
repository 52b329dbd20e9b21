"""Stands in for the plugin of pulumi-command 1.2.1 where its release cannot be downloaded: local and remote Command.

It accepts, fills in, compares and says what the published plugin does. Where it differs: README.md of the folder above. It runs by itself, from the
folder of plugins, and so imports nothing of the project.
"""
