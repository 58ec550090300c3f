"""``python -m stemseg_ros``, which ``torchrun -m`` starts too: the ``stemseg`` command."""

from __future__ import annotations

from stemseg_ros.cli.entry import main

if __name__ == "__main__":
    main()
