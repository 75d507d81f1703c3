from simulations.scenarios.utility_record import UtilityGrid
def render_utility(record: UtilityGrid) -> str:
    return ""
def summary(record: UtilityGrid) -> list[str]:
    return []
