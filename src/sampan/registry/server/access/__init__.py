"""Who may do what: ``accounts`` (names and passwords), ``rules`` (repositories and actions),
``tokens`` (what somebody may do, signed). No HTTP.
"""
