"""What a fleet looks like to hardware: live activations, arithmetic intensity, matrix shapes, where its time goes.

The analyses of section 2 of Park et al., "Deep Learning Inference in Facebook Data Centers" (2018, arXiv 1811.09886),
from the costs of this project. docs/characterization.md shows them.
"""
