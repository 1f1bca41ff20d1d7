"""Training data: files in, conversations out, and what is learned from each of their tokens. No torch.

    rows.py          rows out of JSON and JSON Lines, gzipped or not
    forms.py         OpenAI's messages, ShareGPT, Alpaca, pairs: what a row says
    tools.py         what may be called, and whether calls are such
    schemas.py       arguments against the schema of a tool, neither of them trusted
    dialects.py      tools as public files describe them
    results.py       which call a result belongs to
    conversation.py  what all forms become, and what a conversation must be to be learned from
    files.py         one file: its form, its samples, its faults
    rendered.py      ids and weights, by the renderer of serving
    tokenized.py     rows of files into numbers, by several processes
    summary.py       what a file holds, in numbers
    corpus.py        files with weights, as numbers on disk; the order of an epoch
"""
