"""A process that decodes: a request per line on standard input, an answer on standard output, until the input ends.

Started by `mmrec_model.encoders.decoding`. What a library prints goes to nowhere, not into the answers.
"""

from __future__ import annotations

import os
import sys

from mmrec_model.encoders.reading import parse_request, read, write_answer


def main() -> None:
    """Answer until nobody asks."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    try:
        for line in sys.stdin.buffer:
            reading, path = parse_request(line)
            write_answer(answers, read(reading, path))
    except (BrokenPipeError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
