"""Unsupervised domain adaptation with CAN on Office-31, over norm layers (Table 7 of the paper)."""
