"""Synthetic training data: a teacher writes conversations, and what is no good is left out.

    tasks.py     what is to be written: seed prompts and tool sets, each with an id of its own
    teacher.py   who writes: our own engine, or any OpenAI-compatible endpoint
    writing.py   one conversation: requests, answers, calls that their schemas allow, their results
    judging.py   what is left out: refusals, what training could not read, repetitions
    near.py      texts that are almost the same
    output.py    the files, which are also what a killed run goes on from
    run.py       all tasks, several at a time, written in their order
"""
