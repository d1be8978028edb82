"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EMOJI_SD = ROOT / "plugins" / "hardprompts_emoji" / "models" / "emoji-sd" / "model_index.json"


@pytest.mark.skipif(not EMOJI_SD.exists(), reason="emoji-sd is not in this checkout")
def test_three_lines_with_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "diffusers_three_lines.py", "--output", tmp_path / "drawn.png"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "fox" in run.stdout
    assert (tmp_path / "drawn.png").exists()
