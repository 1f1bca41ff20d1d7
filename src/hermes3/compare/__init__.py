"""How far models are from a reference, token by token on the same text.

    measure.py   perplexity, KL divergence, agreement of the likeliest token, speed
    report.py    the figures as a table and as JSON      plot.py   the divergence as an SVG

The text is cut into windows; each is read from its beginning and its second half is scored, as llama.cpp's
perplexity program does, so that figures can be set beside its own.
"""
