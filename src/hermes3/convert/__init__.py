"""Model files from one form to another: GGUF and Hugging Face folders, and from one storage type to another.

    recipes.py   which tensor gets which storage type
    stream.py    tensors in parts: read, recoded on all cores, in order, without a whole model in memory
    to_gguf.py   writes a GGUF file      to_folder.py   writes a folder with safetensors
    fp8.py       a folder with 8-bit floats

Both writers take a checkpoint, whatever it was opened from. Nothing is left behind by a run that does not
end well.
"""
