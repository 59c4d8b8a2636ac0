"""python -m cyclegan_fast.card: the former name of `cyclegan_fast.model_card`, kept for one version."""

from __future__ import annotations

import logging

from cyclegan_fast.logs import show_logs
from cyclegan_fast.model_card import main

if __name__ == "__main__":
    show_logs()
    logging.getLogger("cyclegan_fast.card").warning(
        "python -m cyclegan_fast.card is now python -m cyclegan_fast.model_card; the old name goes soon"
    )
    main()
