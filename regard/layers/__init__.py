"""The parts of a model other than attention: positions, feed-forward, dropout, and the blocks made of them."""
