"""The table that the cost model is held against is what its calculation gives."""

import subprocess
import sys
from pathlib import Path


def test_the_table_is_what_the_calculation_gives():
    calculation = Path(__file__).resolve().parents[1] / "unit" / "hand_table.py"
    subprocess.run([sys.executable, calculation, "--check"], check=True)
