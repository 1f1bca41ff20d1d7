"""Training: full fine-tuning, LoRA and DPO in torch. What it makes comes back as files, not as imports."""
