"""What a server takes: one file here for each kind.

``refuse`` says why a file is not for it, ``write`` fills a folder; ``graphs`` or ``SCRIPT`` say how it is tried.
"""
