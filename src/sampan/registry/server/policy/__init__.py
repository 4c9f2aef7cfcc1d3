"""What becomes of what is stored, as the registry's operator says it in a file: tags that never
move, tags that go, how much a repository may hold, how much anybody may ask. No HTTP, no database.
"""
