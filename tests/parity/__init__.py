"""Steps of 13 methods beside the steps of their authors' code.

Each .npz file holds inputs, and the numbers that the authors' released code computed from them in float64 on a CPU.
The training functions of the releases ran on given tensors in place of a network, over several steps and ragged cases.
The tests drive a method on the same inputs as the engine does, and compare losses, masks, labels, state and gradients.

    file, method      release                                     commit
    abc               LeeHyuck/ABC                                f70e926
    acr               Gank0078/ACR                                9a8f421
    ccl               zhouzihao11/CCL                             0410cb1
    cossl             YUE-FAN/CoSSL                               9c7b840
    cpe               machengcheng2016/CPE-LTSSL                  dedd598
    cpg               YaxinHou/CPG                                9e9453a
    crest             google-research/crest                       e270139
    daso              ytaek-oh/daso                               3541a6c
    freematch         microsoft/Semi-supervised-learning (USB)    1ef4cbe
    metaexpert        YaxinHou/Meta-Expert                        b728ddb
    seval             ZerojumpLine/SEVAL                          a441101
    simpro            LeapLabTHU/SimPro                           aa2425d
    softmatch         microsoft/Semi-supervised-learning (USB)    1ef4cbe, and TorchSSL's version

Not compared: initial values of networks, augmentation, splits, optimisers but CoSSL's Adam, GPU paths, accuracy.

To run all of them:   pytest tests/parity
One method:           pytest tests/parity/test_acr.py
A failure lists the largest difference of every quantity, the worst first.
"""
