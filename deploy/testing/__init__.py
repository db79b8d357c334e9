"""For the tests of a team: assertions on its exports, and a pytest plugin that holds them. Imports nothing heavy."""

from __future__ import annotations

from deploy.testing.equal import assert_equal_to_model as assert_equal_to_model
from deploy.testing.held import write_export as write_export
