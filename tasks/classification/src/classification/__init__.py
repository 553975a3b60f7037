"""Image classification with a ResNet, over norm layers and batch sizes (Tables 1 and 2 of the paper)."""
