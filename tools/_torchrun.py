"""torchrun without its report on processes that ended themselves.

They have said why, in one line or in a traceback, and are not started again. Processes
that were killed are, with those that they have left, as often as --max_restarts says.
"""

import logging
import os
import socket
import sys
from itertools import islice, takewhile

# The option of the scripts' environment variable comes before the program to run.
OPTIONS = dict(
    argument.split("=", 1)
    for argument in takewhile(lambda text: text.startswith("--"), sys.argv[1:])
)


def check_port() -> None:
    """Exit with one line if the processes could not meet at the port."""
    text = OPTIONS["--master_port"]
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        sys.exit(f"torchrun: PORT must be a number from 1 to 65535, got {text!r}")
    if OPTIONS["--node_rank"] == "0":
        try:
            socket.create_server(("", int(text))).close()
        except OSError as error:
            sys.exit(f"torchrun: set PORT to a free port, {text} is not: {error}")


def run() -> None:
    """Be torchrun."""
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import api
    from torch.distributed.run import main

    class Agent(api.LocalElasticAgent):
        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            result = super()._monitor_workers(worker_group)
            # The first of them; the others were ended because of it.
            for rank, failure in islice(result.failures.items(), 1):
                if 0 < failure.exitcode != os.EX_TEMPFAIL:
                    self._remaining_restarts = 0
                elif self._remaining_restarts:
                    print(
                        f"torchrun: process {rank} has ended with {failure.exitcode}, "
                        f"all are started again (after {self._remaining_restarts} "
                        "times no more)",
                        file=sys.stderr,
                    )
            return result

    api.LocalElasticAgent = Agent
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").disabled = True
    try:
        main()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise
        sys.exit(failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    check_port()
    run()
