"""Few-shot learning with imprinted weights on miniImageNet, over norm layers (Table 6 of the paper)."""
