"""The reference, made from the code: settings, commands and REST routes as Markdown, for the documentation's site.

What is new in the code stands there without a further word, and what is undocumented there fails a test.
"""
