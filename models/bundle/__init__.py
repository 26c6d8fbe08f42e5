"""Runs MONAI bundles as they are: their configuration is read, what touches files in it is replaced, and the rest runs.

``configuration`` finds and changes the configuration, ``adapters`` bring old ones up to today's libraries,
``in_memory`` stands in for loading and saving, ``engine`` builds and runs, ``outputs`` says what came out, and
``isolation`` does all that in a process of its own for bundles that bring Python code.
"""
