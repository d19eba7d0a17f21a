"""Mining of fusion opportunities: canonical form, growth, support, closedness, rules, ranking."""

from graphopt.mining.mine import MiningResult, Pattern, mine

__all__ = ["MiningResult", "Pattern", "mine"]
