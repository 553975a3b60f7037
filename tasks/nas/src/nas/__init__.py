"""Differentiable (DARTS) and bandit (MANAS) architecture search on CIFAR-10, and retraining, over norm layers."""
