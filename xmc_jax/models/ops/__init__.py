"""Operations of the networks, with the same results on each platform in the form it runs best.

Functions of arrays with custom gradients, without parameters. No modules.
"""
