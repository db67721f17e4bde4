"""torchrun without its report on processes that ended themselves.

They have said why, in one line or in a traceback. Processes that were killed have not.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").disabled = True
    try:
        main()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise
        sys.exit(failure.exitcode)
