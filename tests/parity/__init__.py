"""Steps of 31 methods beside the steps of their authors' code; docs/parity.md tells which code, and how far both agree.

Each .npz file holds inputs, and the numbers that the authors' released code computed from them in float64 on a CPU.
The training functions of the releases ran on given tensors in place of a network, over several steps and ragged cases.
The tests drive a method on the same inputs as the engine does, and compare losses, masks, labels, state and gradients.

Not compared: initial values of networks, augmentation, splits, optimisers but CoSSL's Adam, GPU paths, accuracy.

To run all of them:   pytest tests/parity
One method:           pytest tests/parity/test_acr.py
Their differences:    python tests/parity/measured.py

A failure lists the largest difference of every quantity, the worst first.
"""
