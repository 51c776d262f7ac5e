from tests.testing_common import ObjectiveBattery


class TestObjectives(ObjectiveBattery):
    """Every objective of the table, through the battery."""
