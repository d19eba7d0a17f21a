"""Mining of fusion opportunities: canonical form, growth, support, closedness, rules, ranking."""

from graphopt.mining.find import find_opportunities
from graphopt.mining.miner import MiningResult, mine
from graphopt.mining.opportunities import Report
from graphopt.mining.opportunity import Opportunity
from graphopt.mining.pattern import Pattern

__all__ = ["MiningResult", "Opportunity", "Pattern", "Report", "find_opportunities", "mine"]
