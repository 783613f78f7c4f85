"""The conformance kit: what every component of a plugin must do, asked of each.

    from zoo_core.testing import component_checks

    @component_checks("vq")  # the installed plugin's name
    def test_component(check):
        check()

``zoo check vq`` asks the same and prints a table.
"""

from zoo_core.testing.pytest_marks import component_checks as component_checks
from zoo_core.testing.running import Case as Case
from zoo_core.testing.running import Report as Report
from zoo_core.testing.running import cases as cases
from zoo_core.testing.running import check_plugin as check_plugin
