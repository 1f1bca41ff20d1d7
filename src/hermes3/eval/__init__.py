"""The card's benchmarks, by the community's harness (lm-eval) over our engine."""
