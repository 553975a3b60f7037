"""PGD adversarial training on CIFAR-10, over norm layers (Table 5 of the paper)."""
